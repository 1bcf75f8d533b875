//! Files of `torch.save` in its format since PyTorch 1.6: a ZIP archive with a pickle, which describes tensors in plain
//! containers, and one member for the values of each storage. The pickle is read by a restricted unpickler.

mod archive;
mod contents;
mod objects;
mod pickle;

use anyhow::{Context, Result};

use super::tensor::Tensors;
use archive::Archive;

/// The tensors of a file, and the keys that lead to them if the file has them in a container, such as `state_dict`.
///
/// # Errors
/// The file is damaged, or holds anything but tensors in plain containers.
pub(super) fn tensors_of(bytes: &[u8]) -> Result<(Tensors<'_>, String)> {
    let archive = Archive::open(bytes)?;
    let pickle = archive.pickle()?;
    let (objects, root) = pickle::read(pickle, &archive).context("data.pkl in it")?;
    contents::state_dict(&objects, root)
}

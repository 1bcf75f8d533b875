//! `model.safetensors`: a network's parameters alone, interchangeable with PyTorch's `state_dict()`.

use std::path::Path;

use anyhow::{Context, Result};

use super::tensors::{flat_from_tensors, named_tensors, parse, read_file, refuse_extra, write_tensors};
use crate::network::Network;

/// Writes `parameters` (flat, in memory layout) in PyTorch's names, layout and order.
pub fn save_weights(path: &Path, network: &Network, parameters: &[f32]) -> Result<()> {
    write_tensors(path, &named_tensors(network, "", parameters), ("format", "pt"))
}

/// Reads parameters into memory layout.
///
/// # Errors
/// Where the file is not there, is cut, or its tensors are not exactly those of `network`, finite and of its shapes.
pub fn load_weights(path: &Path, network: &Network) -> Result<Vec<f32>> {
    let bytes = read_file(path, network)?;
    from_bytes(&bytes, network).with_context(|| format!("cannot use the weights in {}", path.display()))
}

fn from_bytes(bytes: &[u8], network: &Network) -> Result<Vec<f32>> {
    let tensors = parse(bytes)?;
    let flat = flat_from_tensors(network, "", &tensors)?;
    refuse_extra(network, &[""], &tensors)?;
    Ok(flat)
}

//! `model.safetensors`: a network's parameters and running statistics alone, interchangeable with PyTorch's `state_dict()`.

use std::path::Path;

use anyhow::{Context, Result};

use super::statistics::{statistics_from_tensors, statistics_tensors};
use super::tensors::{flat_from_tensors, named_tensors, parse, read_file, refuse_extra, write_tensors};
use crate::network::{Network, Statistics, Weights};

/// Writes `parameters` (flat, in memory layout) and running statistics in PyTorch's names and layout.
pub fn save_weights(path: &Path, network: &Network, parameters: &[f32], statistics: &Statistics) -> Result<()> {
    let mut tensors = named_tensors(network, "", parameters);
    tensors.extend(statistics_tensors(network, statistics));
    write_tensors(path, &tensors, ("format", "pt"))
}

/// Reads weights, parameters into memory layout.
///
/// # Errors
/// Where the file is not there, is cut, or its tensors are not exactly those of `network`, finite and of its shapes.
pub fn load_weights(path: &Path, network: &Network) -> Result<Weights> {
    let bytes = read_file(path, network)?;
    from_bytes(&bytes, network).with_context(|| format!("cannot use the weights in {}", path.display()))
}

fn from_bytes(bytes: &[u8], network: &Network) -> Result<Weights> {
    let tensors = parse(bytes)?;
    let parameters = flat_from_tensors(network, "", &tensors)?;
    let statistics = statistics_from_tensors(network, &tensors)?;
    refuse_extra(network, &[""], &tensors)?;
    Ok(Weights { parameters, statistics })
}

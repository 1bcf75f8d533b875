//! `model.safetensors`: a network's parameters and running statistics alone, interchangeable with PyTorch's `state_dict()`.

use std::path::Path;

use anyhow::{Context, Result};

use super::foreign::refuse_extra;
use super::statistics::{statistics_from_tensors, statistics_tensors};
use super::tensors::{flat_from_some, named_tensors, parse, read_file, write_tensors};
use crate::network::{Network, Statistics, Weights};

/// Writes `parameters` (flat, in memory layout) and running statistics in PyTorch's names and layout.
pub fn save_weights(path: &Path, network: &Network, parameters: &[f32], statistics: &Statistics) -> Result<()> {
    let mut tensors = named_tensors(network, "", parameters);
    tensors.extend(statistics_tensors(network, statistics));
    write_tensors(path, &tensors, ("format", "pt"))
}

/// Reads weights to evaluate, parameters into memory layout. They may be without the heads that only help training.
///
/// # Errors
/// Where the file is not there, is cut, or its tensors are not exactly those of `network`, finite and of its shapes.
pub fn load_weights(path: &Path, network: &Network) -> Result<Weights> {
    Ok(load_pretrained(path, network, 0)?.0)
}

/// The same to begin training from, and whether the file is without auxiliary heads that `network` has: these then begin as
/// `seed` has them begin, as in PyTorch a module keeps what no `state_dict` gives it.
///
/// # Errors
/// As [`load_weights`].
pub fn load_pretrained(path: &Path, network: &Network, seed: u64) -> Result<(Weights, bool)> {
    let bytes = read_file(path, network)?;
    from_bytes(&bytes, network, seed).with_context(|| format!("cannot use the weights in {}", path.display()))
}

fn from_bytes(bytes: &[u8], network: &Network, seed: u64) -> Result<(Weights, bool)> {
    let tensors = parse(bytes)?;
    let heads = network.auxiliary_state();
    let of_head = |index: &usize| heads.parameters[*index];
    let indices = 0..network.parameters.len();
    // All of the heads or nothing: a file with a part of them is damaged.
    let absent = |index: usize| tensors.tensor(&network.parameters[index].name).is_err();
    let headless = !network.auxiliary.is_empty() && indices.clone().filter(of_head).all(absent);
    let mut parameters = flat_from_some(network, "", &tensors, |index| !(headless && heads.parameters[index]))?;
    let statistics = statistics_from_tensors(network, &tensors, |index| !(headless && heads.statistics[index]))?;
    refuse_extra(network, &[""], &tensors)?;
    if headless {
        let initial = network.initial_parameters(seed);
        for range in indices.filter(of_head).map(|index| network.parameters[index].range()) {
            parameters[range.clone()].copy_from_slice(&initial[range]);
        }
    }
    Ok((Weights { parameters, statistics }, headless))
}

//! `model.safetensors`: a network's parameters and running statistics, interchangeable with PyTorch's `state_dict()`.

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

/// Reads weights for evaluation, with parameters in memory layout. The auxiliary classifiers, which only training uses,
/// may be missing.
///
/// # Errors
/// The file is missing or truncated, or its tensors are not those of `network`, with its shapes and finite values.
pub fn load_weights(path: &Path, network: &Network) -> Result<Weights> {
    Ok(load_pretrained(path, network, 0)?.0)
}

/// Reads weights to start training from. Also returns whether the file lacks the auxiliary classifiers of `network`;
/// these then get their initial values for `seed`, as a PyTorch module keeps parameters that a `state_dict`
/// lacks.
///
/// # Errors
/// Those of [`load_weights`].
pub fn load_pretrained(path: &Path, network: &Network, seed: u64) -> Result<(Weights, bool)> {
    let bytes = read_file(path, network)?;
    from_bytes(&bytes, network, seed).with_context(|| format!("cannot use the weights in {}", path.display()))
}

fn from_bytes(bytes: &[u8], network: &Network, seed: u64) -> Result<(Weights, bool)> {
    let tensors = parse(bytes)?;
    let heads = network.auxiliary_state();
    let of_head = |index: &usize| heads.parameters[*index];
    let indices = 0..network.parameters.len();
    // Either all auxiliary classifiers are missing or none: a file with some of them is damaged.
    let absent = |index: usize| tensors.tensor(&network.parameters[index].name).is_err();
    let lacks_auxiliary = !network.auxiliary.is_empty() && indices.clone().filter(of_head).all(absent);
    let mut parameters = flat_from_some(network, "", &tensors, |index| !(lacks_auxiliary && heads.parameters[index]))?;
    let statistics = statistics_from_tensors(network, &tensors, |index| !(lacks_auxiliary && heads.statistics[index]))?;
    refuse_extra(network, &[""], &tensors)?;
    if lacks_auxiliary {
        let initial = network.initial_parameters(seed);
        for range in indices.filter(of_head).map(|index| network.parameters[index].range()) {
            parameters[range.clone()].copy_from_slice(&initial[range]);
        }
    }
    Ok((Weights { parameters, statistics }, lacks_auxiliary))
}

//! `model.safetensors`: a network's parameters and running statistics, interchangeable with PyTorch's `state_dict()`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tracing::{info, warn};

use super::container::{DIGEST, check_digest, parse, parse_metadata, read_beginning};
use super::foreign::refuse_extra;
use super::prefix::usual_prefix;
use super::recognise::{Format, recognise};
use super::state;
use super::statistics::{statistics_from_tensors, statistics_tensors};
use super::tensor::Tensors;
use super::tensors::{NamedTensor, flat_from_some, named_tensors, read_file, write_tensors};
use super::{timm, torch};
use crate::network::{Network, Statistics, Weights};

/// The metadata entry that describes what the weights were trained for.
const DESCRIPTION: &str = "cnn-cuda.weights";
/// That with the epoch after which the weights were saved, counted from 1.
const EPOCH: &str = "cnn-cuda.epoch";
/// That of PyTorch's tensors, which some programs require.
const FORMAT: (&str, &str) = ("format", "pt");

/// Writes `parameters` (flat, in memory layout) and running statistics in PyTorch's names and layout.
pub fn save_weights(path: &Path, network: &Network, parameters: &[f32], statistics: &Statistics) -> Result<()> {
    write_tensors(path, &tensors_of(network, parameters, statistics), &[FORMAT])
}

/// Like [`save_weights`], with a description of what the weights were trained for, which [`weights_description`] reads, and
/// the epoch that they are from, if they were evaluated.
pub fn save_described_weights(
    path: &Path,
    network: &Network,
    parameters: &[f32],
    statistics: &Statistics,
    description: &str,
    epoch: Option<u32>,
) -> Result<()> {
    let epoch = epoch.map(|epoch| epoch.to_string());
    let entries = [Some(FORMAT), Some((DESCRIPTION, description)), epoch.as_deref().map(|epoch| (EPOCH, epoch))];
    let entries: Vec<_> = entries.into_iter().flatten().collect();
    write_tensors(path, &tensors_of(network, parameters, statistics), &entries)
}

/// The epoch that weights with this metadata are from, if it is recorded.
pub(super) fn epoch_of(metadata: &HashMap<String, String>) -> Option<u32> {
    metadata.get(EPOCH)?.parse().ok()
}

fn tensors_of(network: &Network, parameters: &[f32], statistics: &Statistics) -> Vec<NamedTensor> {
    let mut tensors = named_tensors(network, "", parameters);
    tensors.extend(statistics_tensors(network, statistics));
    tensors
}

/// The description in a file of weights; `None` if it has none, as those of other programs.
///
/// # Errors
/// The file cannot be read, is of another format, is a checkpoint, or does not match its SHA-256.
pub fn weights_description(path: &Path) -> Result<Option<String>> {
    let cannot_read = || format!("cannot read {}", path.display());
    ensure!(fs::metadata(path).with_context(cannot_read)?.is_file(), "{} is not a file", path.display());
    if recognise(path)? == Format::Torch {
        return Ok(None);
    }
    // Loading the weights reports a truncated file, because it knows how large the file must be.
    let Ok(metadata) = parse_metadata(&read_beginning(path).with_context(cannot_read)?) else { return Ok(None) };
    state::refuse_checkpoint(&metadata).with_context(|| path.display().to_string())?;
    let Some(description) = metadata.get(DESCRIPTION) else { return Ok(None) };
    let bytes = fs::read(path).with_context(cannot_read)?;
    check_digest(&bytes, &metadata).with_context(|| path.display().to_string())?;
    Ok(Some(description.clone()))
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
    with_tensors(path, network, |tensors| {
        Ok((from_tensors(tensors, network, seed, &[])?, lacks_auxiliary(network, tensors)))
    })
}

/// Calls `read` with the tensors of a file of weights in any format. What precedes their names is removed, and logged.
pub(super) fn with_tensors<T>(path: &Path, network: &Network, read: impl FnOnce(&Tensors) -> Result<T>) -> Result<T> {
    let (bytes, format) = read_file(path, network)?;
    let shown = path.display();
    let read = || {
        let (tensors, keys) = match format {
            Format::Torch => torch::tensors_of(&bytes)?,
            Format::Safetensors => {
                let metadata = check_metadata(&bytes)?;
                if metadata.contains_key(DESCRIPTION) && !metadata.contains_key(DIGEST) {
                    warn!("{shown} has no SHA-256, as if another program changed it, so it is not verified");
                }
                (Tensors::of(&parse(&bytes)?), String::new())
            }
        };
        let prefix = usual_prefix(network, &tensors.names());
        let mut tensors = tensors.without_prefix(prefix.len());
        let is_timm = timm::is_vgg(network, &tensors);
        if is_timm {
            tensors = timm::as_torchvision(tensors);
        }
        let found = (!keys.is_empty()).then(|| format!("the weights are its entry {keys}"));
        let stripped = (!prefix.is_empty()).then(|| format!("the prefix {prefix} of all names is removed"));
        let renamed = is_timm.then(|| "timm's names of linear layers are read as torchvision's".to_string());
        let said: Vec<String> = found.into_iter().chain(stripped).chain(renamed).collect();
        if !said.is_empty() {
            info!("{shown}: {}", said.join("; "));
        }
        read(&tensors)
    };
    read().with_context(|| format!("cannot use the weights in {shown}"))
}

/// The metadata of a file that is not a checkpoint and matches its digest, if it has one.
fn check_metadata(bytes: &[u8]) -> Result<HashMap<String, String>> {
    parse(bytes)?;
    let metadata = parse_metadata(bytes)?;
    state::refuse_checkpoint(&metadata)?;
    check_digest(bytes, &metadata)?;
    Ok(metadata)
}

/// The weights of `tensors`. Auxiliary classifiers that it lacks and parameters that are `skipped` get their initial
/// values for `seed`.
pub(super) fn from_tensors(tensors: &Tensors, network: &Network, seed: u64, skipped: &[bool]) -> Result<Weights> {
    let heads = network.auxiliary_state();
    let lacks_auxiliary = lacks_auxiliary(network, tensors);
    let is_new = |index: usize| skipped.get(index) == Some(&true) || lacks_auxiliary && heads.parameters[index];
    let mut parameters = flat_from_some(network, "", tensors, |index| !is_new(index))?;
    let statistics = statistics_from_tensors(network, tensors, |index| !(lacks_auxiliary && heads.statistics[index]))?;
    refuse_extra(network, &[""], tensors)?;
    let new: Vec<usize> = (0..network.parameters.len()).filter(|&index| is_new(index)).collect();
    if !new.is_empty() {
        let initial = network.initial_parameters(seed);
        for range in new.into_iter().map(|index| network.parameters[index].range()) {
            parameters[range.clone()].copy_from_slice(&initial[range]);
        }
    }
    Ok(Weights { parameters, statistics })
}

/// Whether the file lacks the auxiliary classifiers of `network`: all of them, or it is damaged.
pub(super) fn lacks_auxiliary(network: &Network, tensors: &Tensors) -> bool {
    let heads = network.auxiliary_state();
    let absent = |index: usize| tensors.get(&network.parameters[index].name).is_none();
    !network.auxiliary.is_empty() && (0..network.parameters.len()).filter(|&index| heads.parameters[index]).all(absent)
}

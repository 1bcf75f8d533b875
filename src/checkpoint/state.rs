//! `checkpoint.safetensors`: weights, running statistics, optimiser state and position, to resume a run bit for bit.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};

use super::container::{check_digest, parse, parse_metadata};
use super::foreign::refuse_extra;
use super::header::{Header, RunIdentity};
use super::recognise::refuse_other_formats;
use super::statistics::{statistics_from_tensors, statistics_tensors};
use super::tensor::Tensors;
use super::tensors::{flat_from_tensors, named_tensors, read_file, write_tensors};
use crate::network::Network;
use crate::train::TrainState;

/// Prefix of the names of momentum buffers.
const MOMENTUM: &str = "momentum.";
/// Prefixes of the names of Adam's first and second moments: PyTorch's names of its state.
const FIRST_MOMENT: &str = "exp_avg.";
const SECOND_MOMENT: &str = "exp_avg_sq.";
/// Prefix of the names of averaged weights.
pub(super) const AVERAGE: &str = "average.";

/// The metadata entry with the header, as JSON.
const ENTRY: &str = "cnn-cuda";

/// Writes a checkpoint atomically: the old file stays until the new one is complete and on disk.
pub fn save_state(path: &Path, network: &Network, run: &RunIdentity, state: &TrainState) -> Result<()> {
    let header = Header::new(run, state);
    let header_text = serde_json::to_string(&header).context("checkpoint header")?;
    let mut tensors = named_tensors(network, "", &state.parameters);
    tensors.extend(statistics_tensors(network, &state.statistics));
    if header.has_momentum {
        tensors.extend(named_tensors(network, momentum_prefix(&header), &state.momentum));
    }
    if header.has_second_moment {
        tensors.extend(named_tensors(network, SECOND_MOMENT, &state.second_moment));
    }
    if header.has_average {
        tensors.extend(named_tensors(network, AVERAGE, &state.average));
    }
    write_tensors(path, &tensors, &[(ENTRY, &header_text)])
}

fn momentum_prefix(header: &Header) -> &'static str {
    if header.has_second_moment { FIRST_MOMENT } else { MOMENTUM }
}

/// Reads a checkpoint of `run`.
///
/// # Errors
/// The file is missing, damaged, or of another model, data set or run; the message says which.
pub fn load_state(path: &Path, network: &Network, run: &RunIdentity) -> Result<TrainState> {
    let (bytes, _) = read_file(path, network).map_err(damaged)?;
    refuse_other_formats(path).map_err(damaged)?;
    from_bytes(&bytes, network, run).with_context(|| format!("cannot resume from {}", path.display()))
}

fn damaged(error: Error) -> Error {
    anyhow!("{error:#}; to continue from the run's weights, start a new run with --init and its model.safetensors")
}

fn from_bytes(bytes: &[u8], network: &Network, run: &RunIdentity) -> Result<TrainState> {
    let tensors = Tensors::of(&parse(bytes).map_err(damaged)?);
    let header = read_header(bytes).map_err(damaged)?;
    header.check_run(run)?;
    let parameters = flat_from_tensors(network, "", &tensors)?;
    let statistics = statistics_from_tensors(network, &tensors, |_| true)?;
    let read = |prefix, there| if there { flat_from_tensors(network, prefix, &tensors) } else { Ok(Vec::new()) };
    let momentum = read(momentum_prefix(&header), header.has_momentum)?;
    let second_moment = read(SECOND_MOMENT, header.has_second_moment)?;
    let average = read(AVERAGE, header.has_average)?;
    refuse_extra(network, &["", momentum_prefix(&header), SECOND_MOMENT, AVERAGE], &tensors)?;
    Ok(TrainState { parameters, statistics, momentum, second_moment, average, ..header.state() })
}

/// The header of a checkpoint, after checking the file's digest and the header's values.
pub(super) fn read_header(bytes: &[u8]) -> Result<Header> {
    let metadata = parse_metadata(bytes)?;
    ensure!(metadata.contains_key(ENTRY), "this is not a checkpoint of cnn-cuda; to start from weights, use --init");
    let has_digest = check_digest(bytes, &metadata)?;
    let header = header_of(bytes)?;
    header.check(has_digest)?;
    Ok(header)
}

/// The header of a checkpoint of which `bytes` are the beginning, unchecked.
pub(super) fn header_of(bytes: &[u8]) -> Result<Header> {
    let metadata = parse_metadata(bytes)?;
    serde_json::from_str(metadata.get(ENTRY).context("it has no header")?).context("its header is damaged")
}

/// Fails if the file with this metadata is a checkpoint, whose weights may not be those to evaluate.
pub(super) fn refuse_checkpoint(metadata: &HashMap<String, String>) -> Result<()> {
    ensure!(
        !metadata.contains_key(ENTRY),
        "this is the checkpoint of a run, from which --resume continues; its weights are in model.safetensors in the \
         same folder"
    );
    Ok(())
}

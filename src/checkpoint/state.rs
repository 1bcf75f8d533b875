//! `checkpoint.safetensors`: weights, running statistics, optimiser state and position, to resume a run bit for bit.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::foreign::refuse_extra;
use super::statistics::{statistics_from_tensors, statistics_tensors};
use super::tensors::{flat_from_tensors, named_tensors, parse, parse_metadata, read_file, write_tensors};
use crate::network::Network;
use crate::ops::{LossScale, Metrics};
use crate::train::{Best, Position, TrainState};

/// Prefix of the names of momentum buffers.
const MOMENTUM: &str = "momentum.";
/// Prefix of the names of averaged weights.
const AVERAGE: &str = "average.";

/// What must match for a run to resume from a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    pub model: String,
    pub dataset: String,
    pub train_images: usize,
    /// Fingerprint of the training images and labels, which detects another data set of the same name and size.
    pub data_fingerprint: u64,
    pub seed: u64,
    pub batch_size: usize,
    pub shuffle: bool,
}

/// The metadata entry `cnn-cuda`, as JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    run: RunIdentity,
    epoch: u32,
    step_in_epoch: u64,
    total_steps: u64,
    has_momentum: bool,
    #[serde(default)]
    has_average: bool,
    /// Stored as bits, so that every value is exact.
    loss_sum_bits: u64,
    correct: u64,
    samples: u64,
    /// Scale, good steps and skipped steps of a half-precision run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<(f32, u32, u64)>,
    /// Bits of the best test accuracy, and its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best: Option<(u64, u32)>,
    epoch_seconds: f64,
}

const VERSION: u32 = 1;
const ENTRY: &str = "cnn-cuda";

/// Writes a checkpoint atomically: the old file stays until the new one is complete and on disk.
pub fn save_state(path: &Path, network: &Network, run: &RunIdentity, state: &TrainState) -> Result<()> {
    let header = Header {
        version: VERSION,
        run: run.clone(),
        epoch: state.position.epoch,
        step_in_epoch: state.position.step_in_epoch,
        total_steps: state.position.total_steps,
        has_momentum: !state.momentum.is_empty(),
        has_average: !state.average.is_empty(),
        loss_sum_bits: state.metrics.loss_sum.to_bits(),
        correct: state.metrics.correct,
        samples: state.metrics.samples,
        loss_scale: state.loss_scale.map(|scale| (scale.scale, scale.good_steps, scale.skipped_steps)),
        best: state.best.map(|best| (best.test_accuracy.to_bits(), best.epoch)),
        epoch_seconds: state.epoch_seconds,
    };
    let header_text = serde_json::to_string(&header).context("checkpoint header")?;
    let mut tensors = named_tensors(network, "", &state.parameters);
    tensors.extend(statistics_tensors(network, &state.statistics));
    if header.has_momentum {
        tensors.extend(named_tensors(network, MOMENTUM, &state.momentum));
    }
    if header.has_average {
        tensors.extend(named_tensors(network, AVERAGE, &state.average));
    }
    write_tensors(path, &tensors, (ENTRY, &header_text))
}

/// Reads a checkpoint of `run`.
///
/// # Errors
/// The file is missing, truncated, or of another model, data set or run; the message says which.
pub fn load_state(path: &Path, network: &Network, run: &RunIdentity) -> Result<TrainState> {
    let bytes = read_file(path, network)?;
    from_bytes(&bytes, network, run).with_context(|| format!("cannot resume from {}", path.display()))
}

fn from_bytes(bytes: &[u8], network: &Network, run: &RunIdentity) -> Result<TrainState> {
    let tensors = parse(bytes).map_err(|error| {
        anyhow!("{error}; to continue from the run's weights, start a new run with --init and its model.safetensors")
    })?;
    let metadata = parse_metadata(bytes)?;
    let header =
        metadata.get(ENTRY).context("this is not a checkpoint of cnn-cuda; to start from weights, use --init")?;
    let header: Header = serde_json::from_str(header).context("its header is damaged")?;
    ensure!(header.version == VERSION, "it has version {}, this program reads {VERSION}", header.version);
    same("model", &header.run.model, &run.model)?;
    same("dataset", &header.run.dataset, &run.dataset)?;
    same("number of training images", &header.run.train_images, &run.train_images)?;
    same("training data's fingerprint", &header.run.data_fingerprint, &run.data_fingerprint)?;
    same("seed", &header.run.seed, &run.seed)?;
    same("batch size", &header.run.batch_size, &run.batch_size)?;
    same("shuffling", &header.run.shuffle, &run.shuffle)?;
    let parameters = flat_from_tensors(network, "", &tensors)?;
    let statistics = statistics_from_tensors(network, &tensors, |_| true)?;
    let read = |prefix, there| if there { flat_from_tensors(network, prefix, &tensors) } else { Ok(Vec::new()) };
    let (momentum, average) = (read(MOMENTUM, header.has_momentum)?, read(AVERAGE, header.has_average)?);
    refuse_extra(network, &["", MOMENTUM, AVERAGE], &tensors)?;
    let metrics = Metrics {
        loss_sum: f64::from_bits(header.loss_sum_bits),
        correct: header.correct,
        samples: header.samples,
        steps: header.step_in_epoch,
        first_bad_step: None,
    };
    let position =
        Position { epoch: header.epoch, step_in_epoch: header.step_in_epoch, total_steps: header.total_steps };
    let loss_scale =
        header.loss_scale.map(|(scale, good_steps, skipped_steps)| LossScale { scale, good_steps, skipped_steps });
    let best = header.best.map(|(accuracy, epoch)| Best { test_accuracy: f64::from_bits(accuracy), epoch });
    Ok(TrainState {
        parameters,
        statistics,
        momentum,
        average,
        position,
        metrics,
        loss_scale,
        best,
        epoch_seconds: header.epoch_seconds,
    })
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, there: &T, here: &T) -> Result<()> {
    ensure!(there == here, "its {what} is {there:?}, but this run's is {here:?}");
    Ok(())
}

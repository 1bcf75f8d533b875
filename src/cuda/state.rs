//! State on the device that outlives a step, besides parameters: metrics, learning rates, the loss scale, and the
//! counters that random numbers are drawn from.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::lower::swap_average;
use super::memory::{Memory, bytes_of_f32, words};
use super::program::Buffer;
use super::scratch::{MAX_NORM_BLOCKS, NORM_BYTES};
use super::{Cuda, bind};
use crate::ops::{Cut, LossScale, Metrics, Mix, Precision, StepLoss, TrainingState};

/// Bytes of `struct Metrics` in `kernels/loss.cu`: loss sum, correct, count, steps, first bad step, 8 bytes each.
const METRICS_LEN: usize = 40;

/// Value of the first bad step if there is none: −1 as `i64`.
const NO_BAD_STEP: u64 = u64::MAX;

/// Bytes of `struct StepResult` in `kernels/loss.cu`: loss and accuracy, 4 bytes each.
const STEP_LEN: usize = 8;

/// Bytes of the capacity, which precedes the step results.
const STEP_LOG_HEADER: usize = 8;

/// Bytes of the indices, which precede the learning rates.
const RATES_HEADER: usize = 16;

/// Bytes of `struct Mixes` and `struct Mix` in `kernels/mix.cuh`.
const MIXES_HEADER: usize = 16;
const MIX_LEN: usize = 32;

/// Bytes of `struct LossScaling` in `kernels/optimizer.cu`: scale, good steps, skipped steps, overflow.
const SCALING_LEN: usize = 24;

/// Interval between two copies of a running epoch's metrics: short enough for a progress bar, too long to cost time.
const METRICS_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The host's part of the state.
#[derive(Default)]
pub(super) struct State {
    /// When the copy of the metrics that is in flight was requested.
    requested_at: Option<Instant>,
    /// Capacity of the step log, in steps.
    log_capacity: usize,
    /// The step up to which [`TrainingState::take_step_losses`] has returned the losses.
    log_taken: u64,
}

/// Allocates the state that does not depend on a plan; labels and learning rates may be reallocated larger later.
pub(super) fn allocate(memory: &mut Memory, precision: Precision) -> Result<()> {
    memory.allocate_pinned(Buffer::Metrics, METRICS_LEN)?;
    memory.allocate_pinned(Buffer::LearningRates, RATES_HEADER + 4)?;
    memory.allocate_pinned(Buffer::Mixes, MIXES_HEADER + MIX_LEN)?;
    memory.allocate_pinned(Buffer::UpdateCount, 8)?;
    memory.allocate_pinned(Buffer::DropoutStep, 16)?;
    memory.allocate_pinned(Buffer::AugmentationEpoch, 16)?;
    if precision.has_loss_scale() {
        memory.allocate_pinned(Buffer::LossScaling, SCALING_LEN)?;
    }
    memory.allocate_zeroed(Buffer::Labels, 4)?;
    memory.allocate_zeroed(Buffer::StepLog, STEP_LOG_HEADER)?;
    memory.allocate_zeroed(Buffer::GradientNorm, NORM_BYTES + 4 * MAX_NORM_BLOCKS)
}

impl TrainingState for Cuda {
    fn set_metrics(&mut self, metrics: Metrics) -> Result<()> {
        self.state.log_taken = metrics.steps;
        self.state.requested_at = None; // a copy in flight has the old metrics
        self.memory.send(Buffer::Metrics, &metrics_to_bytes(&metrics))
    }

    fn read_metrics(&mut self) -> Result<Metrics> {
        self.state.requested_at = None;
        metrics_from_bytes(&self.memory.receive(Buffer::Metrics)?)
    }

    fn peek_metrics(&mut self) -> Option<Metrics> {
        let requested_at = self.state.requested_at;
        if requested_at.is_some_and(|since| since.elapsed() < METRICS_POLL_INTERVAL) {
            return None;
        }
        // An error here recurs, and is reported, when the epoch's metrics are read.
        let received = requested_at.map(|_| self.memory.poll(Buffer::Metrics).ok().flatten());
        if received == Some(None) {
            return None; // still in flight: do not wait
        }
        self.memory.request(Buffer::Metrics).ok()?;
        self.state.requested_at = Some(Instant::now());
        metrics_from_bytes(&received??).ok()
    }

    fn log_steps(&mut self, capacity: usize) -> Result<()> {
        self.memory.allocate_zeroed(Buffer::StepLog, STEP_LOG_HEADER + capacity * STEP_LEN)?;
        self.memory.get(Buffer::StepLog)?.upload(0, &(capacity as u64).to_le_bytes())?;
        self.state.log_taken = self.read_metrics()?.steps;
        self.state.log_capacity = capacity;
        Ok(())
    }

    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>> {
        let capacity = self.state.log_capacity;
        if capacity == 0 {
            return Ok(Vec::new());
        }
        let steps = self.read_metrics()?.steps;
        let bytes = self.memory.get(Buffer::StepLog)?.download(STEP_LOG_HEADER, capacity * STEP_LEN)?;
        let values: Vec<f32> = words(&bytes).map(f32::from_le_bytes).collect();
        let first = self.state.log_taken.max(steps.saturating_sub(capacity as u64));
        self.state.log_taken = steps;
        let result = |step: u64| {
            let slot = 2 * (step % capacity as u64) as usize;
            StepLoss { loss: values[slot], accuracy: values[slot + 1] }
        };
        Ok((first..steps).map(result).collect())
    }

    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()> {
        let last = rates.len().checked_sub(1).context("no learning rate was given")? as u64;
        let bytes = [[0, last].map(u64::to_le_bytes).concat(), bytes_of_f32(rates)].concat();
        if self.memory.get(Buffer::LearningRates)?.len() < bytes.len() {
            self.memory.allocate_pinned(Buffer::LearningRates, bytes.len())?;
        }
        self.memory.send(Buffer::LearningRates, &bytes)
    }

    fn set_mixes(&mut self, mixes: &[Mix]) -> Result<()> {
        let last = mixes.len().checked_sub(1).context("no mix was given")? as u64;
        let entry = |mix: &Mix| {
            let Cut { top, bottom, left, right } = mix.cut.unwrap_or(Cut { top: 0, bottom: 0, left: 0, right: 0 });
            let is_cut = u32::from(mix.cut.is_some());
            [mix.own.to_bits(), mix.other.to_bits(), top, bottom, left, right, is_cut, 0].map(u32::to_le_bytes).concat()
        };
        let bytes = [[0, last].map(u64::to_le_bytes).concat(), mixes.iter().flat_map(entry).collect()].concat();
        if self.memory.get(Buffer::Mixes)?.len() < bytes.len() {
            self.memory.allocate_pinned(Buffer::Mixes, bytes.len())?;
        }
        self.memory.send(Buffer::Mixes, &bytes)
    }

    fn set_class_weights(&mut self, weights: &[f32]) -> Result<()> {
        self.memory.allocate_with(Buffer::ClassWeights, &bytes_of_f32(weights))
    }

    fn update_count(&mut self) -> Result<u64> {
        let bytes = self.memory.receive(Buffer::UpdateCount)?;
        let count = bytes.first_chunk().context("the device's count of updates is truncated")?;
        Ok(u64::from_le_bytes(*count))
    }

    fn set_update_count(&mut self, count: u64) -> Result<()> {
        self.memory.send(Buffer::UpdateCount, &count.to_le_bytes())
    }

    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()> {
        self.memory.send(Buffer::DropoutStep, &[seed, step].map(u64::to_le_bytes).concat())
    }

    fn swap_average(&mut self) -> Result<()> {
        bind(&self.context)?;
        let [weights, average] = [Buffer::Parameters, Buffer::Average].map(|buffer| self.memory.get(buffer));
        let (bytes, average) = (weights?.len(), average?.len());
        ensure!(bytes == average, "no average of the parameters is kept");
        self.runner.launch(&self.memory, None, &swap_average(bytes / 4, self.target()?)?)
    }

    fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        if !self.options.precision.has_loss_scale() {
            return Ok(None);
        }
        let bytes = self.memory.receive(Buffer::LossScaling)?;
        let (words, _) = bytes.as_chunks::<8>();
        let [[s0, s1, s2, s3, good @ ..], skipped, ..] = *words else { bail!("the device's loss scale is truncated") };
        let (scale, good_steps) = (f32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes(good));
        Ok(Some(LossScale { scale, good_steps, skipped_steps: u64::from_le_bytes(skipped) }))
    }

    /// Also clears the overflow flag.
    fn set_loss_scale(&mut self, loss_scale: LossScale) -> Result<()> {
        if !self.options.precision.has_loss_scale() {
            return Ok(());
        }
        let LossScale { scale, good_steps, skipped_steps } = loss_scale;
        let words = [scale.to_le_bytes(), good_steps.to_le_bytes()].concat();
        self.memory.send(Buffer::LossScaling, &[words, skipped_steps.to_le_bytes().to_vec(), vec![0; 8]].concat())
    }
}

fn metrics_to_bytes(metrics: &Metrics) -> Vec<u8> {
    let Metrics { loss_sum, correct, samples, steps, first_bad_step } = *metrics;
    [loss_sum.to_bits(), correct, samples, steps, first_bad_step.unwrap_or(NO_BAD_STEP)].map(u64::to_le_bytes).concat()
}

fn metrics_from_bytes(bytes: &[u8]) -> Result<Metrics> {
    let (words, _) = bytes.as_chunks::<8>();
    let [loss_sum, correct, samples, steps, bad, ..] = *words else { bail!("the device's metrics are truncated") };
    let [correct, samples, steps, bad] = [correct, samples, steps, bad].map(u64::from_le_bytes);
    let first_bad_step = (bad != NO_BAD_STEP).then_some(bad);
    Ok(Metrics { loss_sum: f64::from_le_bytes(loss_sum), correct, samples, steps, first_bad_step })
}

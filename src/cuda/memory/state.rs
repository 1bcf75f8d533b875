//! What outlives a step on the device besides parameters: labels, metrics, rates, the loss scale, the places of random numbers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cudarc::driver::CudaStream;

use super::pinned::Pinned;
use super::{Allocation, Memory, bytes_of_u32, words};
use crate::cuda::driver::error;
use crate::cuda::program::Buffer;
use crate::cuda::scratch::{MAX_NORM_BLOCKS, NORM_BYTES};
use crate::ops::{LossScale, Metrics, Precision, StepLoss};

/// Bytes of `struct Metrics` in `kernels/loss.cu`: loss sum, correct, count, steps, first bad step, 8 bytes each.
const METRICS_LEN: usize = 40;

/// Bytes of `struct StepResult` in `kernels/loss.cu`: loss and accuracy, 4 bytes each; and of the capacity before them.
const STEP_LEN: usize = 8;
const STEP_LOG_HEADER: usize = 8;

/// Bytes of the indices before the learning rates.
const RATES_HEADER: usize = 16;

/// Bytes of `struct LossScaling` in `kernels/optimizer.cu`: scale, good steps, skipped steps, overflow.
const SCALING_LEN: usize = 24;

/// Pause between two looks at a running epoch's metrics: often enough for a person, too seldom to cost anything.
const LOOK: Duration = Duration::from_millis(100);

pub(in crate::cuda) struct State {
    stream: Arc<CudaStream>,
    metrics: Pinned,
    /// Since when the metrics are on their way to the host.
    on_the_way: Option<Instant>,
    /// Steps that the log has room for, and those of the metrics that were taken already.
    log_capacity: usize,
    log_taken: u64,
    rates: Pinned,
    scaling: Option<Pinned>,
    dropout: Pinned,
    augmentation: Pinned,
}

impl State {
    pub fn new(memory: &mut Memory) -> Result<Self> {
        let stream = Arc::clone(&memory.stream);
        let pinned = |bytes| Pinned::new(&stream, bytes);
        let scaling = (memory.precision == Precision::Fp16).then(|| pinned(SCALING_LEN)).transpose()?;
        let mut state = Self {
            metrics: pinned(METRICS_LEN)?,
            on_the_way: None,
            log_capacity: 0,
            log_taken: 0,
            rates: pinned(RATES_HEADER + 4)?,
            scaling,
            dropout: pinned(16)?,
            augmentation: pinned(16)?,
            stream: Arc::clone(&stream),
        };
        for (buffer, pinned) in [
            (Buffer::Metrics, &state.metrics),
            (Buffer::LearningRates, &state.rates),
            (Buffer::DropoutStep, &state.dropout),
            (Buffer::AugmentationEpoch, &state.augmentation),
        ] {
            memory.name(buffer, &pinned.device);
        }
        if let Some(scaling) = &state.scaling {
            memory.name(Buffer::LossScaling, &scaling.device);
        }
        let zeroed = |bytes| Allocation::zeroed(&stream, bytes).map_err(error::driver);
        memory.put(Buffer::Labels, zeroed(4)?);
        memory.put(Buffer::StepLog, zeroed(STEP_LOG_HEADER)?);
        memory.put(Buffer::GradientNorm, zeroed(NORM_BYTES + 4 * MAX_NORM_BLOCKS)?);
        state.set_metrics(Metrics::default())?;
        state.set_loss_scale(LossScale::default())?;
        Ok(state)
    }

    pub fn allocate_labels(&self, memory: &mut Memory, max_batch: usize) -> Result<()> {
        memory.put(Buffer::Labels, Allocation::zeroed(&self.stream, 4 * max_batch).map_err(error::driver)?);
        Ok(())
    }

    pub fn set_labels(&self, memory: &Memory, labels: &[u32]) -> Result<()> {
        memory.get(Buffer::Labels)?.upload(&self.stream, 0, &bytes_of_u32(labels))
    }

    pub fn set_metrics(&mut self, metrics: Metrics) -> Result<()> {
        self.log_taken = metrics.steps;
        self.on_the_way = None; // it would be of the old ones
        self.metrics.write(&self.stream, &metrics_to_bytes(&metrics))
    }

    pub fn read_metrics(&mut self) -> Result<Metrics> {
        self.on_the_way = None;
        metrics_from_bytes(&self.metrics.read(&self.stream)?)
    }

    pub fn peek_metrics(&mut self) -> Option<Metrics> {
        if self.on_the_way.is_some_and(|since| since.elapsed() < LOOK) {
            return None;
        }
        // What fails here fails again where the epoch's metrics are read, and is reported there.
        let arrived = self.on_the_way.map(|_| self.metrics.arrived().ok().flatten());
        if arrived == Some(None) {
            return None; // still on its way: ask again later, and wait for nothing
        }
        self.metrics.request(&self.stream).ok()?;
        self.on_the_way = Some(Instant::now());
        metrics_from_bytes(&arrived??).ok()
    }

    pub fn log_steps(&mut self, memory: &mut Memory, capacity: usize) -> Result<()> {
        let log = Allocation::zeroed(&self.stream, STEP_LOG_HEADER + capacity * STEP_LEN).map_err(error::driver)?;
        log.upload(&self.stream, 0, &(capacity as u64).to_le_bytes())?;
        memory.put(Buffer::StepLog, log);
        (self.log_taken, self.log_capacity) = (self.read_metrics()?.steps, capacity);
        Ok(())
    }

    pub fn take_step_losses(&mut self, memory: &Memory) -> Result<Vec<StepLoss>> {
        let capacity = self.log_capacity as u64;
        if capacity == 0 {
            return Ok(Vec::new());
        }
        let steps = self.read_metrics()?.steps;
        let bytes =
            memory.get(Buffer::StepLog)?.download(&self.stream, STEP_LOG_HEADER, self.log_capacity * STEP_LEN)?;
        let values: Vec<f32> = words(&bytes).map(f32::from_le_bytes).collect();
        let first = self.log_taken.max(steps.saturating_sub(capacity));
        self.log_taken = steps;
        let result = |step: u64| {
            let slot = 2 * (step % capacity) as usize;
            StepLoss { loss: values[slot], accuracy: values[slot + 1] }
        };
        Ok((first..steps).map(result).collect())
    }

    pub fn set_learning_rates(&mut self, memory: &mut Memory, rates: &[f32]) -> Result<()> {
        let last = rates.len().checked_sub(1).context("there is no learning rate")? as u64;
        let mut bytes = [0_u64, last].map(u64::to_le_bytes).concat();
        bytes.extend(rates.iter().flat_map(|rate| rate.to_le_bytes()));
        if self.rates.device.len() < bytes.len() {
            self.rates = Pinned::new(&self.stream, bytes.len())?;
            memory.name(Buffer::LearningRates, &self.rates.device);
        }
        self.rates.write(&self.stream, &bytes)
    }

    pub fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()> {
        self.dropout.write(&self.stream, &[seed, step].map(u64::to_le_bytes).concat())
    }

    pub fn set_augmentation_epoch(&mut self, seed: u64, epoch: u32) -> Result<()> {
        self.augmentation.write(&self.stream, &[seed, epoch.into()].map(u64::to_le_bytes).concat())
    }

    pub fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        let Some(scaling) = &mut self.scaling else { return Ok(None) };
        let bytes = scaling.read(&self.stream)?;
        let (words, _) = bytes.as_chunks::<4>();
        let [scale, good, low, high, ..] = *words else { anyhow::bail!("the loss scale is cut") };
        let skipped = u64::from(u32::from_le_bytes(low)) | u64::from(u32::from_le_bytes(high)) << 32;
        let (scale, good_steps) = (f32::from_le_bytes(scale), u32::from_le_bytes(good));
        Ok(Some(LossScale { scale, good_steps, skipped_steps: skipped }))
    }

    /// With no overflow seen.
    pub fn set_loss_scale(&mut self, loss_scale: LossScale) -> Result<()> {
        let Some(scaling) = &mut self.scaling else { return Ok(()) };
        let LossScale { scale, good_steps, skipped_steps } = loss_scale;
        let words = [scale.to_le_bytes(), good_steps.to_le_bytes()].concat();
        scaling.write(&self.stream, &[words, skipped_steps.to_le_bytes().to_vec(), vec![0; 8]].concat())
    }
}

fn metrics_to_bytes(metrics: &Metrics) -> Vec<u8> {
    let bad = metrics.first_bad_step.map_or(-1, |step| step as i64);
    let words = [
        metrics.loss_sum.to_le_bytes(),
        metrics.correct.to_le_bytes(),
        metrics.samples.to_le_bytes(),
        metrics.steps.to_le_bytes(),
        bad.to_le_bytes(),
    ];
    words.concat()
}

fn metrics_from_bytes(bytes: &[u8]) -> Result<Metrics> {
    let (words, _) = bytes.as_chunks::<8>();
    let [loss_sum, correct, samples, steps, bad, ..] = *words else { anyhow::bail!("the device's metrics are cut") };
    Ok(Metrics {
        loss_sum: f64::from_le_bytes(loss_sum),
        correct: u64::from_le_bytes(correct),
        samples: u64::from_le_bytes(samples),
        steps: u64::from_le_bytes(steps),
        first_bad_step: u64::try_from(i64::from_le_bytes(bad)).ok(),
    })
}

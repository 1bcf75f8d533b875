//! Softmax cross-entropy on CUDA, and the metrics that stay on the device until they are asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaEvent, CudaStream};

use super::kernels::{Arg, u32_arg};
use super::memory::{Buffer, Pinned, bytes_of_u32, f32_from_bytes};
use super::{Cuda, error};
use crate::ops::{Activation, BiasOps, LossGradient, LossOps, Metrics, Span, StepLoss};

/// Bytes of `struct Metrics` in `kernels/loss.cu`: loss sum, correct, count, steps, first bad step, 8 bytes each.
const METRICS_LEN: usize = 40;

/// Bytes of `struct StepResult` in `kernels/loss.cu`: loss and accuracy, 4 bytes each.
const STEP_LEN: usize = 8;

/// What outlives a step.
pub(super) struct State {
    /// Labels of the batch at hand.
    labels: Buffer,
    metrics: Pinned,
    step_log: Option<StepLog>,
    /// The metrics that are on their way to the host, and since when.
    on_the_way: Option<(CudaEvent, Instant)>,
}

/// Pause between two looks at a running epoch's metrics: often enough for a person, too seldom to cost anything.
const LOOK: Duration = Duration::from_millis(100);

/// A ring of the latest steps' results.
struct StepLog {
    ring: Buffer,
    capacity: usize,
    /// Steps of the metrics that were taken already.
    taken: u64,
}

/// Whether the loss's one block also sums the bias gradient: it would take too long over many logits.
pub(super) fn sums_the_bias(batch: usize, classes: usize) -> bool {
    batch * classes <= 1 << 14
}

impl State {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let labels = Buffer::zeroed(stream, 4).map_err(error::driver)?;
        let mut state = Self { labels, metrics: Pinned::new(stream, METRICS_LEN)?, step_log: None, on_the_way: None };
        state.metrics.write(stream, &metrics_to_bytes(&Metrics::default()))?;
        Ok(state)
    }

    pub fn allocate_labels(&mut self, stream: &Arc<CudaStream>, max_batch: usize) -> Result<()> {
        self.labels = Buffer::zeroed(stream, 4 * max_batch).map_err(error::driver)?;
        Ok(())
    }

    pub fn labels(&self) -> Arg {
        Arg::Pointer(self.labels.address())
    }
}

impl LossOps for Cuda {
    fn softmax_cross_entropy(
        &mut self,
        classes: usize,
        batch: usize,
        logits: Span,
        gradient: Option<LossGradient>,
    ) -> Result<()> {
        ensure!(4 * batch <= self.loss.labels.len(), "a batch of {batch} is larger than what was allocated for");
        let log = self.loss.step_log.as_ref().filter(|_| gradient.is_some());
        let (ring, capacity) = log.map_or((0, 0), |log| (log.ring.address(), log.capacity as u64));
        let len = batch * classes;
        let d_bias = gradient.and_then(|gradient| gradient.d_bias);
        let summed_here = d_bias.filter(|_| sums_the_bias(batch, classes));
        let optional = |span: Option<Span>| span.map_or(Ok(Arg::Pointer(0)), |span| self.pointer(span));
        let args = [
            self.pointer(logits.first(len))?,
            self.loss.labels(),
            optional(gradient.map(|gradient| gradient.d_logits.first(len)))?,
            optional(summed_here.map(|d_bias| d_bias.first(classes)))?,
            self.optimizer.loss_scale(),
            Arg::Pointer(self.loss.metrics.device.address()),
            Arg::Pointer(ring),
            Arg::U64(capacity),
            u32_arg(batch)?,
            u32_arg(classes)?,
            Arg::F32(gradient.map_or(0.0, |gradient| gradient.smoothing)),
            Arg::F32(gradient.map_or(1.0, |gradient| gradient.weight())),
            Arg::U32(gradient.is_some_and(|gradient| gradient.auxiliary.is_some()).into()),
        ];
        // One block: the sums over the samples have one order.
        self.kernels.launch_grid(&self.stream, "softmax_cross_entropy", [1, 1], &args)?;
        match gradient {
            Some(LossGradient { d_logits, d_bias: Some(_), .. }) if summed_here.is_none() => {
                self.bias_activation_backward(Activation::Identity, batch, classes, logits, d_logits, d_bias)
            }
            _ => Ok(()),
        }
    }

    fn set_labels(&mut self, labels: &[u32]) -> Result<()> {
        self.loss.labels.upload(&self.stream, 0, &bytes_of_u32(labels))
    }

    fn set_metrics(&mut self, metrics: Metrics) -> Result<()> {
        if let Some(log) = &mut self.loss.step_log {
            log.taken = metrics.steps;
        }
        self.loss.on_the_way = None; // it would be of the old ones
        self.loss.metrics.write(&self.stream, &metrics_to_bytes(&metrics))
    }

    fn read_metrics(&mut self) -> Result<Metrics> {
        metrics_from_bytes(&self.loss.metrics.read(&self.stream)?)
    }

    fn peek_metrics(&mut self) -> Option<Metrics> {
        let requested = self.loss.on_the_way.as_ref();
        if requested.is_some_and(|(_, since)| since.elapsed() < LOOK) {
            return None;
        }
        // What fails here fails again where the epoch's metrics are read, and is told there.
        let arrived = requested.map(|(event, _)| self.loss.metrics.arrived(event).ok().flatten());
        if arrived == Some(None) {
            return None; // still on its way: ask again later, and wait for nothing
        }
        let event = self.loss.metrics.request(&self.stream).ok()?;
        self.loss.on_the_way = Some((event, Instant::now()));
        metrics_from_bytes(&arrived??).ok()
    }

    fn log_steps(&mut self, capacity: usize) -> Result<()> {
        self.graphs.clear(); // recorded steps know nothing of the ring
        let ring = Buffer::zeroed(&self.stream, capacity * STEP_LEN).map_err(error::driver)?;
        let taken = self.read_metrics()?.steps;
        self.loss.step_log = Some(StepLog { ring, capacity, taken });
        Ok(())
    }

    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>> {
        let steps = self.read_metrics()?.steps;
        let Some(log) = &mut self.loss.step_log else { return Ok(Vec::new()) };
        let values = f32_from_bytes(&log.ring.download(&self.stream, 0, log.capacity * STEP_LEN)?)?;
        let first = log.taken.max(steps.saturating_sub(log.capacity as u64));
        log.taken = steps;
        let result = |step: u64| {
            let slot = 2 * (step % log.capacity as u64) as usize;
            StepLoss { loss: values[slot], accuracy: values[slot + 1] }
        };
        Ok((first..steps).map(result).collect())
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
    let word = |index: usize| -> Result<[u8; 8]> {
        Ok(bytes.get(8 * index..8 * index + 8).context("the device's metrics are cut")?.try_into()?)
    };
    Ok(Metrics {
        loss_sum: f64::from_le_bytes(word(0)?),
        correct: u64::from_le_bytes(word(1)?),
        samples: u64::from_le_bytes(word(2)?),
        steps: u64::from_le_bytes(word(3)?),
        first_bad_step: u64::try_from(i64::from_le_bytes(word(4)?)).ok(),
    })
}

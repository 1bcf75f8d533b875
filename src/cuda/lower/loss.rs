//! Softmax cross-entropy.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::cuda::program::Buffer;
use crate::cuda::scratch::MAX_LOSS_BLOCKS;
use crate::ops::{Activation, BiasActivationBackward, LossGradient, RunOn, SoftmaxCrossEntropy};

/// Threads per warp; `WARP` in `kernels/common.cuh`.
const WARP: usize = 32;

/// Threads of the largest block; `MOST_THREADS` in `kernels/loss.cu`.
const MOST_THREADS: usize = 1024;

/// Threads of a block for long rows or large batches.
const FEW_THREADS: usize = 128;

/// Rows that one block processes one after another before several blocks are faster, which must wait for the last.
const MOST_ROUNDS: usize = 4;

/// How a launch divides the rows.
#[derive(Debug, PartialEq)]
struct Division {
    /// Threads per row: a power of two up to [`WARP`], or all threads of a block.
    lanes: usize,
    threads: usize,
    blocks: usize,
}

impl Division {
    /// For rows of `classes`, which threads read `vector` at a time.
    fn new(rows: usize, classes: usize, vector: usize) -> Self {
        let vectors = classes.div_ceil(vector);
        if vectors > 2 * WARP {
            // With many classes, a thread has up to eight vectors.
            let lanes = vectors.div_ceil(8).next_power_of_two().clamp(FEW_THREADS, MOST_THREADS);
            return Self { lanes, threads: lanes, blocks: rows.clamp(1, MAX_LOSS_BLOCKS) };
        }
        let lanes = vectors.next_power_of_two().min(WARP);
        let threads = (rows * lanes).next_multiple_of(WARP).clamp(WARP, MOST_THREADS);
        if rows * lanes <= MOST_ROUNDS * MOST_THREADS {
            return Self { lanes, threads, blocks: 1 };
        }
        Self { lanes, threads: FEW_THREADS, blocks: (rows * lanes).div_ceil(FEW_THREADS).min(MAX_LOSS_BLOCKS) }
    }
}

impl RunOn<Lowering<'_>> for SoftmaxCrossEntropy {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { classes, logits, gradient } = *self;
        let rows = logits.len / classes;
        let spans = [logits, gradient.map_or(logits, |gradient| gradient.d_logits)];
        let (mut kernel, mut vector) = lowering.variant("softmax_cross_entropy", &[classes], &spans);
        if classes <= WARP {
            // A thread per class is faster than a thread per vector, as it takes a row no longer.
            (kernel, vector) = ("softmax_cross_entropy".into(), 1);
        }
        let Division { lanes, threads, blocks } = Division::new(rows, classes, vector);
        // Of several blocks, the last would sum all gradients alone; that is left to a launch of its own.
        let fused_d_bias = gradient.and_then(|gradient| gradient.d_bias).filter(|_| blocks == 1);
        let params = params!(
            lowering.target, 112 bytes,
            [
                logits, labels = Buffer::Labels, loss_scale = lowering.loss_scaling(0),
                weights = gradient.filter(|gradient| gradient.weighted).map(|_| Buffer::ClassWeights),
                mixes = gradient.filter(|gradient| gradient.mixed).map(|_| Buffer::Mixes),
                d_logits = gradient.map(|gradient| gradient.d_logits), d_bias = fused_d_bias,
                metrics = Buffer::Metrics, step_log = gradient.map(|_| Buffer::StepLog),
                partial = Buffer::Partials, block_counters = Buffer::BlockCounters,
            ],
            rows: u32, classes: u32, lanes: u32,
            smoothing: f32 = gradient.map_or(0.0, |gradient| gradient.smoothing),
            weight: f32 = gradient.map_or(1.0, |gradient| gradient.weight()),
            auxiliary: u32 = gradient.is_some_and(|gradient| gradient.auxiliary.is_some()),
        );
        lowering.launch_of(threads, kernel, [blocks, 1], params)?;
        match gradient {
            Some(LossGradient { d_logits: d_output, d_bias: d_bias @ Some(_), .. }) if fused_d_bias.is_none() => {
                let (activation, channels, output) = (Activation::Identity, classes, logits);
                BiasActivationBackward { activation, channels, output, d_output, d_bias }.run_on(lowering)
            }
            _ => Ok(()),
        }
    }
}

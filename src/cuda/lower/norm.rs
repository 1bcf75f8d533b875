//! Batch normalisation: one pass for the statistics and one for the values, in both directions.

use anyhow::Result;

use super::Lowering;
use super::bias::{Blocks, ColumnGrid};
use super::params::params;
use crate::cuda::program::{BLOCK, Buffer};
use crate::ops::{
    Activation, BatchNorm2dBackwardInput, BatchNorm2dBackwardSums, BatchNorm2dForward, BatchNorm2dStatistics, RunOn,
    Span,
};

/// Passed as epsilon if the statistics are means and inverse standard deviations, not variances; see `kernels/norm.cu`.
const NO_EPSILON: f32 = -1.0;

/// The blocks of the passes that sum; `SUMS_BLOCK` in `kernels/norm.cu`.
const SUMS: Blocks = Blocks { threads: 384, per_multiprocessor: 2 };

/// The blocks of the pass that normalises, and of the one that computes the input gradient.
const FORWARD: Blocks = Blocks { threads: BLOCK, per_multiprocessor: 4 };
const INPUT: Blocks = Blocks { threads: BLOCK, per_multiprocessor: 3 };

impl RunOn<Lowering<'_>> for BatchNorm2dStatistics {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, input, running, saved } = *self;
        let channels = op.input.channels;
        let rows = op.training_rows(input.len / op.input.len())?;
        let (kernel, lanes) = lowering.variant("norm_statistics", &[channels], &[input]);
        let (blocks, grid) = ColumnGrid::new(rows, channels, lanes, SUMS)?;
        let params = params!(
            lowering.target, 64 bytes,
            [input, running, saved, partial = Buffer::Partials, block_counters = Buffer::BlockCounters],
            grid: ColumnGrid, momentum: f32 = op.momentum, epsilon: f32 = op.epsilon,
        );
        lowering.launch_of(SUMS.threads, kernel, blocks, params)
    }
}

impl RunOn<Lowering<'_>> for BatchNorm2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, activation, input, weight, bias, statistics, training, output, residual } = *self;
        let channels = op.input.channels;
        let spans = [input, weight, bias, statistics, residual.unwrap_or(input), output];
        let kernel = if residual.is_some() { "norm_forward_residual" } else { "norm_forward" };
        let (kernel, lanes) = lowering.norm_variant(kernel, channels, activation, &spans);
        let (blocks, grid) = ColumnGrid::new(input.len / channels, channels, lanes, FORWARD)?;
        let params = params!(
            lowering.target, 72 bytes, [input, weight, bias, statistics, residual, output], grid: ColumnGrid,
            epsilon: f32 = if training { NO_EPSILON } else { op.epsilon }, slope: f32 = activation.code(),
        );
        lowering.launch_of(FORWARD.threads, kernel, blocks, params)
    }
}

impl RunOn<Lowering<'_>> for BatchNorm2dBackwardSums {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, activation, input, d_output, weight, bias, saved, output, d_weight, d_bias } = *self;
        let channels = op.input.channels;
        let rows = op.training_rows(input.len / op.input.len())?;
        let spans = [input, weight, bias, saved, d_output, output.unwrap_or(input)];
        let kernel = if output.is_some() { "norm_backward_sums_residual" } else { "norm_backward_sums" };
        let (kernel, lanes) = lowering.norm_variant(kernel, channels, activation, &spans);
        let (blocks, grid) = ColumnGrid::new(rows, channels, lanes, SUMS)?;
        let (partial, block_counters) = (Buffer::Partials, Buffer::BlockCounters);
        let params = params!(
            lowering.target, 104 bytes,
            [input, output, weight, bias, saved, d_output, d_weight, d_bias, partial, block_counters],
            grid: ColumnGrid, slope: f32 = activation.code(),
        );
        lowering.launch_of(SUMS.threads, kernel, blocks, params)
    }
}

impl RunOn<Lowering<'_>> for BatchNorm2dBackwardInput {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, activation, input, d_output, weight, bias, statistics, d_weight, d_bias, d_input } = *self;
        let channels = op.input.channels;
        let (rows, epsilon) = match (d_weight, d_bias) {
            (Some(_), Some(_)) => (op.training_rows(input.len / op.input.len())?, NO_EPSILON),
            _ => (input.len / channels, op.epsilon),
        };
        let [of_weight, of_bias] = [d_weight, d_bias].map(|sum| sum.unwrap_or(weight));
        let spans = [input, d_output, weight, bias, statistics, of_weight, of_bias, d_input];
        let (kernel, lanes) = lowering.norm_variant("norm_backward_input", channels, activation, &spans);
        let (blocks, grid) = ColumnGrid::new(rows, channels, lanes, INPUT)?;
        let params = params!(
            lowering.target, 96 bytes,
            [input, d_output, weight, bias, statistics, d_weight, d_bias, d_input],
            grid: ColumnGrid, epsilon: f32, share: f32 = 1.0 / rows as f32, slope: f32 = activation.code(),
        );
        lowering.launch_of(INPUT.threads, kernel, blocks, params)
    }
}

impl Lowering<'_> {
    /// [`Lowering::variant`] of a kernel whose variant for vectors has no tanh.
    fn norm_variant(&self, kernel: &str, channels: usize, activation: Activation, spans: &[Span]) -> (String, usize) {
        match activation {
            Activation::Tanh => (kernel.into(), 1),
            _ => self.variant(kernel, &[channels], spans),
        }
    }
}

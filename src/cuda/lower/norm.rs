//! Batch normalisation: one pass for the statistics and one for the values, in both directions.

use anyhow::Result;

use super::Lowering;
use super::bias::ColumnGrid;
use super::params::params;
use crate::cuda::program::Buffer;
use crate::ops::{Activation, BatchNorm2dBackward, BatchNorm2dForward, RunOn, Span};

/// Passed as epsilon if the statistics are means and inverse standard deviations, not variances; see `kernels/norm.cu`.
const NO_EPSILON: f32 = -1.0;

impl RunOn<Lowering<'_>> for BatchNorm2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, activation, input, weight, bias, output, running, saved, residual } = *self;
        let (channels, count) = (op.input.channels, input.len);
        if let Some(saved) = saved {
            op.training_rows(count / op.input.len())?;
            lowering.norm_statistics(self, saved)?;
        }
        let params = params!(
            lowering.target, 72 bytes,
            [input, weight, bias, statistics = saved.unwrap_or(running), residual, output],
            count: u64, channels: u32,
            epsilon: f32 = if saved.is_some() { NO_EPSILON } else { op.epsilon }, slope: f32 = activation.code(),
        );
        let spans = [input, residual.unwrap_or(input), output];
        let (kernel, lanes) = lowering.variant("norm_forward", &[channels], &spans);
        lowering.launch_over(kernel, count / lanes, params)
    }
}

impl RunOn<Lowering<'_>> for BatchNorm2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { input, d_output, weight, bias, saved, d_weight, d_bias, .. } = *self;
        let (channels, count) = (self.op.input.channels, input.len);
        let rows = self.op.training_rows(count / self.op.input.len())?;
        lowering.norm_gradient_sums(rows, self)?;
        let Some(d_input) = self.d_input else { return Ok(()) };
        // With a residual, the first pass has already applied the activation's gradient to `d_output`.
        let activation = if self.output.is_some() { Activation::Identity } else { self.activation };
        let params = params!(
            lowering.target, 88 bytes,
            [input, d_output, weight, bias, saved, d_weight, d_bias, d_input],
            count: u64, channels: u32, share: f32 = 1.0 / rows as f32, slope: f32 = activation.code(),
        );
        let (kernel, lanes) = lowering.variant("norm_backward_input", &[channels], &[input, d_output, d_input]);
        lowering.launch_over(kernel, count / lanes, params)
    }
}

impl Lowering<'_> {
    /// Computes the batch's means and inverse standard deviations, and updates the running statistics.
    fn norm_statistics(&mut self, norm: &BatchNorm2dForward, saved: Span) -> Result<()> {
        let BatchNorm2dForward { ref op, input, running, .. } = *norm;
        let channels = op.input.channels;
        let (kernel, lanes) = self.variant("norm_statistics", &[channels], &[input]);
        let (blocks, grid) = ColumnGrid::new(input.len / channels, channels, lanes)?;
        let params = params!(
            self.target, 72 bytes,
            [input, running, saved, partial = Buffer::Partials, block_counters = Buffer::BlockCounters],
            grid: ColumnGrid, momentum: f32 = op.momentum, epsilon: f32 = op.epsilon,
        );
        self.launch(kernel, blocks, params)
    }

    /// Computes the gradients of weight and bias. With a residual, also computes its gradient, in place in `d_output`.
    fn norm_gradient_sums(&mut self, rows: usize, norm: &BatchNorm2dBackward) -> Result<()> {
        let BatchNorm2dBackward { input, output, weight, bias, saved, d_output, d_weight, d_bias, .. } = *norm;
        let channels = norm.op.input.channels;
        let spans = [input, d_output, output.unwrap_or(input)];
        let (kernel, lanes) = self.variant("norm_backward_sums", &[channels], &spans);
        let (blocks, grid) = ColumnGrid::new(rows, channels, lanes)?;
        let (partial, block_counters) = (Buffer::Partials, Buffer::BlockCounters);
        let params = params!(
            self.target, 112 bytes,
            [input, output, weight, bias, saved, d_output, d_weight, d_bias, partial, block_counters],
            grid: ColumnGrid, slope: f32 = norm.activation.code(),
        );
        self.launch(kernel, blocks, params)
    }
}

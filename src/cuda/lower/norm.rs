//! Batch normalisation: statistics and values in a pass each, and so their gradients.

use anyhow::Result;

use super::bias::ColumnGrid;
use super::{Lowering, u32_of};
use crate::cuda::program::{Address, Buffer, params};
use crate::ops::{Activation, BatchNorm2dBackward, BatchNorm2dForward, RunOn, Span};

/// As the epsilon of `factors_of` in `kernels/norm.cu`: statistics are means and inverse deviations already.
const OWN: f32 = -1.0;

params!(
    NormStatisticsParams, 72 bytes,
    [input, running, saved, partial, arrived],
    grid: ColumnGrid, momentum: f32, epsilon: f32
);
params!(
    NormForwardParams, 72 bytes,
    [input, weight, bias, statistics, residual, output],
    count: u64, channels: u32, epsilon: f32, slope: f32
);
params!(
    NormSumsParams, 112 bytes,
    [input, output, weight, bias, saved, d_output, d_weight, d_bias, partial, arrived],
    grid: ColumnGrid, slope: f32
);
params!(
    NormInputParams, 88 bytes,
    [input, d_output, weight, bias, saved, d_weight, d_bias, d_input],
    count: u64, channels: u32, share: f32, slope: f32
);

impl RunOn<Lowering<'_>> for BatchNorm2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let (channels, count) = (self.op.input.channels, self.input.len);
        if let Some(saved) = self.saved {
            self.op.training_rows(count / self.op.input.len())?;
            lowering.norm_statistics(self, saved)?;
        }
        let params = NormForwardParams {
            input: lowering.address(self.input),
            weight: lowering.address(self.weight),
            bias: lowering.address(self.bias),
            statistics: lowering.address(self.saved.unwrap_or(self.running)),
            residual: lowering.optional(self.residual),
            output: lowering.address(self.output),
            count: count as u64,
            channels: u32_of(channels)?,
            epsilon: if self.saved.is_some() { OWN } else { self.op.epsilon },
            slope: self.activation.code(),
        };
        let residual = self.residual.unwrap_or(self.input);
        let (kernel, lanes) = lowering.form("norm_forward", &[channels], &[self.input, residual, self.output]);
        lowering.launch_over(kernel, count / lanes, &params)
    }
}

impl RunOn<Lowering<'_>> for BatchNorm2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let (channels, count) = (self.op.input.channels, self.input.len);
        let rows = self.op.training_rows(count / self.op.input.len())?;
        lowering.norm_gradient_sums(rows, self)?;
        let Some(d_input) = self.d_input else { return Ok(()) };
        // What had a residual is through its activation already.
        let activation = if self.output.is_some() { Activation::Identity } else { self.activation };
        let params = NormInputParams {
            input: lowering.address(self.input),
            d_output: lowering.address(self.d_output),
            weight: lowering.address(self.weight),
            bias: lowering.address(self.bias),
            saved: lowering.address(self.saved),
            d_weight: lowering.address(self.d_weight),
            d_bias: lowering.address(self.d_bias),
            d_input: lowering.address(d_input),
            count: count as u64,
            channels: u32_of(channels)?,
            share: 1.0 / rows as f32,
            slope: activation.code(),
        };
        let (kernel, lanes) = lowering.form("norm_backward_input", &[channels], &[self.input, self.d_output, d_input]);
        lowering.launch_over(kernel, count / lanes, &params)
    }
}

impl Lowering<'_> {
    /// Mean and inverse deviation of the batch, and the running statistics' step towards them.
    fn norm_statistics(&mut self, norm: &BatchNorm2dForward, saved: Span) -> Result<()> {
        let channels = norm.op.input.channels;
        let (kernel, lanes) = self.form("norm_statistics", &[channels], &[norm.input]);
        let (blocks, grid) = ColumnGrid::new(norm.input.len / channels, channels, lanes)?;
        let params = NormStatisticsParams {
            input: self.address(norm.input),
            running: self.address(norm.running),
            saved: self.address(saved),
            partial: Address::at(Buffer::Partials),
            arrived: Address::at(Buffer::BlockCounters),
            grid,
            momentum: norm.op.momentum,
            epsilon: norm.op.epsilon,
        };
        self.launch(kernel, blocks, &params)
    }

    /// The gradients of weight and bias, and with a residual its own, in place.
    fn norm_gradient_sums(&mut self, rows: usize, norm: &BatchNorm2dBackward) -> Result<()> {
        let channels = norm.op.input.channels;
        let output = norm.output.unwrap_or(norm.input);
        let (kernel, lanes) = self.form("norm_backward_sums", &[channels], &[norm.input, norm.d_output, output]);
        let (blocks, grid) = ColumnGrid::new(rows, channels, lanes)?;
        let params = NormSumsParams {
            input: self.address(norm.input),
            output: self.optional(norm.output),
            weight: self.address(norm.weight),
            bias: self.address(norm.bias),
            saved: self.address(norm.saved),
            d_output: self.address(norm.d_output),
            d_weight: self.address(norm.d_weight),
            d_bias: self.address(norm.d_bias),
            partial: Address::at(Buffer::Partials),
            arrived: Address::at(Buffer::BlockCounters),
            grid,
            slope: norm.activation.code(),
        };
        self.launch(kernel, blocks, &params)
    }
}

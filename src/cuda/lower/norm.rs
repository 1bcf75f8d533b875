//! Batch normalisation: statistics and values in a pass each, and so their gradients.

use anyhow::Result;

use super::bias::ColumnGrid;
use super::{Lowering, u32_of};
use crate::cuda::program::{Address, Buffer, grid_over, params};
use crate::ops::{Activation, BatchNorm2dBackward, BatchNorm2dForward, RunOn, Span};

/// As the epsilon of `factors_of` in `kernels/norm.cu`: statistics are means and inverse deviations already.
const OWN: f32 = -1.0;

#[repr(C)]
#[derive(Clone, Copy)]
struct NormStatisticsParams {
    input: Address,
    running: Address,
    saved: Address,
    partial: Address,
    arrived: Address,
    grid: ColumnGrid,
    momentum: f32,
    epsilon: f32,
}
params!(NormStatisticsParams, 5 addresses, 72 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct NormForwardParams {
    input: Address,
    weight: Address,
    bias: Address,
    statistics: Address,
    residual: Address,
    output: Address,
    count: u64,
    channels: u32,
    epsilon: f32,
    slope: f32,
    unused: u32,
}
params!(NormForwardParams, 6 addresses, 72 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct NormSumsParams {
    input: Address,
    output: Address,
    weight: Address,
    bias: Address,
    saved: Address,
    d_output: Address,
    d_weight: Address,
    d_bias: Address,
    partial: Address,
    arrived: Address,
    grid: ColumnGrid,
    slope: f32,
    unused: u32,
}
params!(NormSumsParams, 10 addresses, 112 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct NormInputParams {
    input: Address,
    d_output: Address,
    weight: Address,
    bias: Address,
    saved: Address,
    d_weight: Address,
    d_bias: Address,
    d_input: Address,
    count: u64,
    channels: u32,
    share: f32,
    slope: f32,
    unused: u32,
}
params!(NormInputParams, 8 addresses, 88 bytes);

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
            unused: 0,
        };
        let residual = self.residual.unwrap_or(self.input);
        match lowering.vectorised(&[channels], &[self.input, residual, self.output]) {
            true => lowering.launch("norm_forward_vec", grid_over(count / lowering.vector()), 0, &params),
            false => lowering.launch("norm_forward", grid_over(count), 0, &params),
        }
        Ok(())
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
            unused: 0,
        };
        match lowering.vectorised(&[channels], &[self.input, self.d_output, d_input]) {
            true => lowering.launch("norm_backward_input_vec", grid_over(count / lowering.vector()), 0, &params),
            false => lowering.launch("norm_backward_input", grid_over(count), 0, &params),
        }
        Ok(())
    }
}

impl Lowering<'_> {
    /// Mean and inverse deviation of the batch, and the running statistics' step towards them.
    fn norm_statistics(&mut self, norm: &BatchNorm2dForward, saved: Span) -> Result<()> {
        let channels = norm.op.input.channels;
        let vectorised = self.vectorised(&[channels], &[norm.input]);
        let lanes = if vectorised { self.vector() } else { 1 };
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
        self.launch(if vectorised { "norm_statistics_vec" } else { "norm_statistics" }, blocks, 0, &params);
        Ok(())
    }

    /// The gradients of weight and bias, and with a residual its own, in place.
    fn norm_gradient_sums(&mut self, rows: usize, norm: &BatchNorm2dBackward) -> Result<()> {
        let channels = norm.op.input.channels;
        let output = norm.output.unwrap_or(norm.input);
        let vectorised = self.vectorised(&[channels], &[norm.input, norm.d_output, output]);
        let (blocks, grid) = ColumnGrid::new(rows, channels, if vectorised { self.vector() } else { 1 })?;
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
            unused: 0,
        };
        self.launch(if vectorised { "norm_backward_sums_vec" } else { "norm_backward_sums" }, blocks, 0, &params);
        Ok(())
    }
}

//! Batch normalisation on CUDA: statistics and values in a pass each, and so their gradients.

use anyhow::Result;

use super::Cuda;
use super::bias::ColumnPass;
use super::kernels::{Arg, u32_arg};
use crate::ops::{Activation, BatchNorm2d, BatchNorm2dBackward, BatchNorm2dForward, NormOps, Span};

/// As the epsilon of `factors_of` in `kernels/norm.cu`: statistics are means and inverse deviations already.
const OWN: f32 = -1.0;

impl NormOps for Cuda {
    fn batch_norm2d_forward(&mut self, op: &BatchNorm2d, batch: usize, spans: BatchNorm2dForward) -> Result<()> {
        let (rows, channels) = (batch * op.input.pixels(), op.input.channels);
        let count = rows * channels;
        let input = spans.input.first(count);
        if let Some(saved) = spans.saved {
            op.training_rows(batch)?;
            self.statistics(op, rows, input, spans.running, saved)?;
        }
        let epsilon = if spans.saved.is_some() { OWN } else { op.epsilon };
        let args = [
            self.pointer(input)?,
            self.pointer(spans.weight.first(channels))?,
            self.pointer(spans.bias.first(channels))?,
            self.pointer(spans.saved.unwrap_or(spans.running).first(2 * channels))?,
            self.optional(spans.residual.map(|residual| residual.first(count)))?,
            self.pointer(spans.output.first(count))?,
            Arg::U64(count as u64),
            u32_arg(channels)?,
            Arg::F32(epsilon),
            Arg::F32(spans.activation.code()),
        ];
        let residual = spans.residual.unwrap_or(spans.input);
        match self.vectorised(&[channels], &[spans.input, residual, spans.output]) {
            true => self.launch("norm_forward_vec", count / self.vector(), &args),
            false => self.launch("norm_forward", count, &args),
        }
    }

    fn batch_norm2d_backward(&mut self, op: &BatchNorm2d, batch: usize, spans: BatchNorm2dBackward) -> Result<()> {
        let (rows, channels) = (op.training_rows(batch)?, op.input.channels);
        self.gradient_sums(rows, channels, &spans)?;
        let Some(d_input) = spans.d_input else { return Ok(()) };
        let count = rows * channels;
        // What had a residual is through its activation already.
        let activation = if spans.output.is_some() { Activation::Identity } else { spans.activation };
        let args = [
            self.pointer(spans.input.first(count))?,
            self.pointer(spans.d_output.first(count))?,
            self.pointer(d_input.first(count))?,
            self.pointer(spans.weight.first(channels))?,
            self.pointer(spans.bias.first(channels))?,
            self.pointer(spans.saved.first(2 * channels))?,
            self.pointer(spans.d_weight.first(channels))?,
            self.pointer(spans.d_bias.first(channels))?,
            Arg::U64(count as u64),
            u32_arg(channels)?,
            Arg::F32(1.0 / rows as f32),
            Arg::F32(activation.code()),
        ];
        match self.vectorised(&[channels], &[spans.input, spans.d_output, d_input]) {
            true => self.launch("norm_backward_input_vec", count / self.vector(), &args),
            false => self.launch("norm_backward_input", count, &args),
        }
    }
}

impl Cuda {
    /// Mean and inverse deviation of the batch, and the running statistics' step towards them.
    fn statistics(&mut self, op: &BatchNorm2d, rows: usize, input: Span, running: Span, saved: Span) -> Result<()> {
        let channels = op.input.channels;
        let vectorised = self.vectorised(&[channels], &[input]);
        let pass = ColumnPass::new(rows, channels, if vectorised { self.vector() } else { 1 })?;
        let memory = self.memory()?;
        let args = [
            self.pointer(input)?,
            self.pointer(running.first(2 * channels))?,
            self.pointer(saved.first(2 * channels))?,
            Arg::Pointer(memory.partials.address()),
            Arg::Pointer(memory.arrived.address()),
            Arg::U64(rows as u64),
            u32_arg(channels)?,
            pass.width,
            pass.rows_per_block,
            Arg::F32(op.momentum),
            Arg::F32(op.epsilon),
        ];
        let kernel = if vectorised { "norm_statistics_vec" } else { "norm_statistics" };
        self.kernels.launch_grid(&self.stream, kernel, pass.grid, &args)
    }

    /// The gradients of weight and bias, and with a residual its own, in place.
    fn gradient_sums(&mut self, rows: usize, channels: usize, spans: &BatchNorm2dBackward) -> Result<()> {
        let count = rows * channels;
        let output = spans.output.unwrap_or(spans.input);
        let vectorised = self.vectorised(&[channels], &[spans.input, spans.d_output, output]);
        let pass = ColumnPass::new(rows, channels, if vectorised { self.vector() } else { 1 })?;
        let memory = self.memory()?;
        let args = [
            self.pointer(spans.input.first(count))?,
            self.optional(spans.output.map(|output| output.first(count)))?,
            self.pointer(spans.d_output.first(count))?,
            self.pointer(spans.weight.first(channels))?,
            self.pointer(spans.bias.first(channels))?,
            self.pointer(spans.saved.first(2 * channels))?,
            self.pointer(spans.d_weight.first(channels))?,
            self.pointer(spans.d_bias.first(channels))?,
            Arg::Pointer(memory.partials.address()),
            Arg::Pointer(memory.arrived.address()),
            Arg::U64(rows as u64),
            u32_arg(channels)?,
            pass.width,
            pass.rows_per_block,
            Arg::F32(spans.activation.code()),
        ];
        let kernel = if vectorised { "norm_backward_sums_vec" } else { "norm_backward_sums" };
        self.kernels.launch_grid(&self.stream, kernel, pass.grid, &args)
    }
}

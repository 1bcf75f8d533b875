//! Bias on CUDA: added with the activation in one pass; its gradient in two stages of fixed order.

use anyhow::Result;

use super::kernels::{Arg, u32_arg};
use super::memory::MAX_PARTIALS;
use super::{Cuda, kernels};
use crate::ops::{Activation, ActivationOps, BiasOps, Span};

/// Rows of one block of a bias gradient's first stage, at least.
const ROWS_PER_BLOCK: usize = 256;

/// Channels of one block; `WARP` in `kernels/common.cuh`.
const CHANNELS_PER_BLOCK: usize = 32;

impl BiasOps for Cuda {
    fn bias_activation_backward(
        &mut self,
        activation: Activation,
        rows: usize,
        channels: usize,
        output: Span,
        d_output: Span,
        d_bias: Option<Span>,
    ) -> Result<()> {
        if activation != Activation::Identity {
            self.activation_backward(activation, rows * channels, output, d_output, d_output)?;
        }
        let Some(d_bias) = d_bias else { return Ok(()) };
        let rows_per_block = ROWS_PER_BLOCK.max(rows.div_ceil(MAX_PARTIALS));
        let (row_blocks, channel_blocks) = (rows.div_ceil(rows_per_block), channels.div_ceil(CHANNELS_PER_BLOCK));
        let partials = Arg::Pointer(self.memory()?.partials.address());
        let (d_output, d_bias) = (self.pointer(d_output)?, self.pointer(d_bias)?);
        let (channels, rows_per_block) = (u32_arg(channels)?, u32_arg(rows_per_block)?);
        let grid = [channel_blocks as u32, row_blocks as u32];
        let kernels: &kernels::Kernels = &self.kernels;
        let args = [d_output, partials, Arg::U64(rows as u64), channels, rows_per_block];
        kernels.launch_grid(&self.stream, "bias_gradient_partial", grid, &args)?;
        let args = [partials, d_bias, Arg::U32(row_blocks as u32), channels];
        kernels.launch_grid(&self.stream, "bias_gradient", [grid[0], 1], &args)
    }
}

impl Cuda {
    /// `output = activation(output + bias)`, in place, over `[rows][channels]`.
    pub(super) fn bias_activation_forward(
        &mut self,
        activation: Activation,
        rows: usize,
        channels: usize,
        bias: Option<Span>,
        output: Span,
    ) -> Result<()> {
        let count = rows * channels;
        let Some(bias) = bias else {
            return match activation {
                Activation::Identity => Ok(()),
                _ => self.activation_forward(activation, count, output, output),
            };
        };
        let (y, bias, slope) = (self.pointer(output)?, self.pointer(bias)?, Arg::F32(activation.code()));
        let args = [y, bias, y, Arg::U64(count as u64), u32_arg(channels)?, slope];
        match self.vectorised(&[channels], &[output]) {
            true => self.launch("bias_activation_forward_vec", count / self.vector(), &args),
            false => self.launch("bias_activation_forward", count, &args),
        }
    }
}

//! Bias on CUDA: added with the activation, and with the pooling that follows, in one pass; its gradient in one pass with
//! the activation's.

use anyhow::Result;

use super::Cuda;
use super::kernels::{Arg, BLOCK, u32_arg};
use super::memory::MAX_PARTIALS;
use crate::ops::{Activation, ActivationOps, BiasOps, Conv2d, Conv2dForward, Span};

/// Blocks that a pass is cut into, at most: several for each multiprocessor of a large device.
const MOST_BLOCKS: usize = 512;

/// Rows that a thread sums itself, at least.
const LEAST_ROWS: usize = 4;

/// Threads of a warp; `WARP` in `kernels/common.cuh`.
const WARP: usize = 32;

/// How a grid goes over `[rows][channels]`; `struct ColumnPass` in `kernels/reduce.cuh`.
pub(super) struct ColumnPass {
    pub grid: [u32; 2],
    /// Vectors of channels side by side in a block, a power of two.
    pub width: Arg,
    pub rows_per_block: Arg,
}

impl ColumnPass {
    /// For threads that take `lanes` channels each.
    pub fn new(rows: usize, channels: usize, lanes: usize) -> Result<Self> {
        let vectors = channels.div_ceil(lanes);
        let width = vectors.next_power_of_two().min(WARP);
        let column_blocks = vectors.div_ceil(width);
        let row_blocks = (MOST_BLOCKS / column_blocks).clamp(1, MAX_PARTIALS);
        let rows_per_block = rows.div_ceil(row_blocks).max(LEAST_ROWS * BLOCK as usize / width);
        let grid = [column_blocks as u32, rows.div_ceil(rows_per_block) as u32];
        Ok(Self { grid, width: u32_arg(width)?, rows_per_block: u32_arg(rows_per_block)? })
    }
}

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
        let Some(d_bias) = d_bias else {
            return match activation {
                Activation::Identity => Ok(()),
                _ => self.activation_backward(activation, rows * channels, output, d_output, d_output),
            };
        };
        let (vectorised, count) = (self.vectorised(&[channels], &[output, d_output]), rows * channels);
        let pass = ColumnPass::new(rows, channels, if vectorised { self.vector() } else { 1 })?;
        let memory = self.memory()?;
        let args = [
            self.pointer(output.first(count))?,
            self.pointer(d_output.first(count))?,
            self.pointer(d_bias.first(channels))?,
            Arg::Pointer(memory.partials.address()),
            Arg::Pointer(memory.arrived.address()),
            Arg::U64(rows as u64),
            u32_arg(channels)?,
            pass.width,
            pass.rows_per_block,
            Arg::F32(activation.code()),
        ];
        let kernel = if vectorised { "bias_activation_backward_vec" } else { "bias_activation_backward" };
        self.kernels.launch_grid(&self.stream, kernel, pass.grid, &args)
    }
}

impl Cuda {
    /// What ends a convolution whose product lies in `spans.output`: bias and activation, and the pooling in the same
    /// pass.
    pub(super) fn end_convolution(&mut self, op: &Conv2d, batch: usize, spans: &Conv2dForward) -> Result<()> {
        let shape = op.output()?;
        match spans.pool {
            Some(pool) => self.pool_maxima(batch, (spans.activation, spans.bias), spans.output, pool),
            None => {
                let rows = batch * shape.pixels();
                self.bias_activation_forward(spans.activation, rows, shape.channels, spans.bias, spans.output)
            }
        }
    }

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

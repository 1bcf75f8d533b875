//! Bias: added with the activation, and with the pooling that follows, in one pass; its gradient in one pass with the
//! activation's.

use anyhow::Result;

use super::{Lowering, u32_of};
use crate::cuda::program::{Address, BLOCK, Buffer, grid_over, params};
use crate::cuda::scratch::MAX_PARTIALS;
use crate::ops::{
    Activation, ActivationBackward, ActivationForward, BiasActivationBackward, GradientEpilogue, RunOn, Span,
};

/// Blocks that a pass is cut into, at most: several for each multiprocessor of a large device.
const MOST_BLOCKS: usize = 512;

/// Rows that a thread sums itself, at least.
const LEAST_ROWS: usize = 4;

/// Threads of a warp; `WARP` in `kernels/common.cuh`.
const WARP: usize = 32;

/// How a grid goes over `[rows][channels]`; `struct ColumnGrid` in `kernels/reduce.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ColumnGrid {
    pub rows: u64,
    pub channels: u32,
    /// Vectors of channels side by side in a block, a power of two.
    pub width: u32,
    pub rows_per_block: u32,
    pub unused: u32,
}

const _: () = assert!(size_of::<ColumnGrid>() == 24);

impl ColumnGrid {
    /// For threads that take `lanes` channels each; with the grid to launch.
    pub fn new(rows: usize, channels: usize, lanes: usize) -> Result<([u32; 2], Self)> {
        let vectors = channels.div_ceil(lanes);
        let width = vectors.next_power_of_two().min(WARP);
        let column_blocks = vectors.div_ceil(width);
        let row_blocks = (MOST_BLOCKS / column_blocks).clamp(1, MAX_PARTIALS);
        let rows_per_block = rows.div_ceil(row_blocks).max(LEAST_ROWS * BLOCK as usize / width);
        let blocks = [column_blocks as u32, rows.div_ceil(rows_per_block) as u32];
        let grid = Self {
            rows: rows as u64,
            channels: u32_of(channels)?,
            width: u32_of(width)?,
            rows_per_block: u32_of(rows_per_block)?,
            unused: 0,
        };
        Ok((blocks, grid))
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct BiasForwardParams {
    input: Address,
    bias: Address,
    output: Address,
    count: u64,
    channels: u32,
    slope: f32,
}
params!(BiasForwardParams, 3 addresses, 40 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct BiasBackwardParams {
    output: Address,
    d_output: Address,
    d_bias: Address,
    partial: Address,
    arrived: Address,
    grid: ColumnGrid,
    slope: f32,
    unused: u32,
}
params!(BiasBackwardParams, 5 addresses, 72 bytes);

impl RunOn<Lowering<'_>> for BiasActivationBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { activation, channels, output, d_output, d_bias } = *self;
        let Some(d_bias) = d_bias else {
            return match activation {
                Activation::Identity => Ok(()),
                op => ActivationBackward { op, output, d_output, d_input: d_output }.run_on(lowering),
            };
        };
        let vectorised = lowering.vectorised(&[channels], &[output, d_output]);
        let lanes = if vectorised { lowering.vector() } else { 1 };
        let (blocks, grid) = ColumnGrid::new(d_output.len / channels, channels, lanes)?;
        let params = BiasBackwardParams {
            output: lowering.address(output),
            d_output: lowering.address(d_output),
            d_bias: lowering.address(d_bias),
            partial: Address::at(Buffer::Partials),
            arrived: Address::at(Buffer::BlockCounters),
            grid,
            slope: activation.code(),
            unused: 0,
        };
        let kernel = if vectorised { "bias_activation_backward_vec" } else { "bias_activation_backward" };
        lowering.launch(kernel, blocks, 0, &params);
        Ok(())
    }
}

impl Lowering<'_> {
    /// An epilogue in a pass of its own, after an operator that has no fused one: `d_input` is `[rows][channels]`.
    pub(super) fn gradient_epilogue(
        &mut self,
        channels: usize,
        d_input: Span,
        epilogue: Option<GradientEpilogue>,
    ) -> Result<()> {
        epilogue.map_or(Ok(()), |it| BiasActivationBackward::of_epilogue(channels, d_input, it).run_on(self))
    }

    /// `output = activation(output + bias)`, in place, over `[rows][channels]`.
    pub(super) fn bias_activation_forward(
        &mut self,
        activation: Activation,
        channels: usize,
        bias: Option<Span>,
        output: Span,
    ) -> Result<()> {
        let Some(bias) = bias else {
            return match activation {
                Activation::Identity => Ok(()),
                op => ActivationForward { op, input: output, output }.run_on(self),
            };
        };
        let y = self.address(output);
        let params = BiasForwardParams {
            input: y,
            bias: self.address(bias),
            output: y,
            count: output.len as u64,
            channels: u32_of(channels)?,
            slope: activation.code(),
        };
        match self.vectorised(&[channels], &[output]) {
            true => self.launch("bias_activation_forward_vec", grid_over(output.len / self.vector()), 0, &params),
            false => self.launch("bias_activation_forward", grid_over(output.len), 0, &params),
        }
        Ok(())
    }
}

//! Bias: the addition is fused with the activation, and the bias gradient with the activation's gradient.

use anyhow::Result;

use super::Lowering;
use super::params::{Pod, fit, params};
use crate::cuda::program::{BLOCK, Buffer};
use crate::cuda::scratch::MAX_PARTIALS;
use crate::ops::{
    Activation, ActivationBackward, ActivationForward, BiasActivationBackward, GradientEpilogue, RunOn, Span,
};

/// Target for the number of blocks of a pass: several per multiprocessor of a large device.
const TARGET_BLOCKS: usize = 512;

/// Minimum rows that each thread sums.
const MIN_ROWS_PER_THREAD: usize = 4;

/// Threads per warp; `WARP` in `kernels/common.cuh`.
const WARP: usize = 32;

/// How a grid covers `[rows][channels]`; `struct ColumnGrid` in `kernels/reduce.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnGrid {
    rows: u64,
    channels: u32,
    /// Vectors of adjacent channels per block, a power of two.
    width: u32,
    rows_per_block: u32,
    unused: u32,
}

const _: () = assert!(size_of::<ColumnGrid>() == 24);

// SAFETY: numbers without padding bytes.
unsafe impl Pod for ColumnGrid {}

impl ColumnGrid {
    /// The size of the grid, and its parameters, for threads that process `lanes` channels each.
    pub fn new(rows: usize, channels: usize, lanes: usize) -> Result<([usize; 2], Self)> {
        let vectors = channels.div_ceil(lanes);
        let width = vectors.next_power_of_two().min(WARP);
        let column_blocks = vectors.div_ceil(width);
        let row_blocks = (TARGET_BLOCKS / column_blocks).clamp(1, MAX_PARTIALS);
        let rows_per_block = rows.div_ceil(row_blocks).max(MIN_ROWS_PER_THREAD * BLOCK / width);
        let blocks = [column_blocks, rows.div_ceil(rows_per_block)];
        let grid = Self {
            rows: rows as u64,
            channels: fit(channels)?,
            width: fit(width)?,
            rows_per_block: fit(rows_per_block)?,
            unused: 0,
        };
        Ok((blocks, grid))
    }
}

impl RunOn<Lowering<'_>> for BiasActivationBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { activation, channels, output, d_output, d_bias } = *self;
        let Some(d_bias) = d_bias else {
            return match activation {
                Activation::Identity => Ok(()),
                op => ActivationBackward { op, output, d_output, d_input: d_output }.run_on(lowering),
            };
        };
        let (kernel, lanes) = lowering.variant("bias_activation_backward", &[channels], &[output, d_output]);
        let (blocks, grid) = ColumnGrid::new(d_output.len / channels, channels, lanes)?;
        let params = params!(
            lowering.target, 72 bytes,
            [output, d_output, d_bias, partial = Buffer::Partials, block_counters = Buffer::BlockCounters],
            grid: ColumnGrid, slope: f32 = activation.code(),
        );
        lowering.launch(kernel, blocks, params)
    }
}

impl Lowering<'_> {
    /// Runs an epilogue as a separate pass, for operators that do not fuse it; `d_input` is `[rows][channels]`.
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
        let params = params!(
            self.target, 40 bytes, [input = output, bias, output],
            count: u64 = output.len, channels: u32, slope: f32 = activation.code(),
        );
        let (kernel, lanes) = self.variant("bias_activation_forward", &[channels], &[output]);
        self.launch_over(kernel, output.len / lanes, params)
    }
}

//! Bias: the addition is fused with the activation, and the bias gradient with the activation's gradient.

use std::ops::RangeInclusive;

use anyhow::Result;

use super::Lowering;
use super::params::{Pod, fit, params};
use crate::cuda::program::{Buffer, KernelLaunch, Launch, Params};
use crate::cuda::scratch::MAX_COLUMN_BLOCKS;
use crate::ops::{
    Activation, ActivationBackward, ActivationForward, BiasActivationBackward, GradientEpilogue, RunOn, Span,
};

/// Multiprocessors of a large device, for which grids are sized. The order of sums follows from the grid, so it must not
/// depend on the device.
const MULTIPROCESSORS: usize = 132;

/// Vectors of adjacent channels per block, which are 128 bytes in each row.
const MAX_VECTORS: usize = 8;

/// The same for a vector of one channel. At least four, because blocks' sums are read 16 bytes at a time.
const SCALARS: RangeInclusive<usize> = 4..=32;

/// Passes over all threads of a block that it makes alone: more blocks would wait for the last of them for longer.
const ALONE: usize = 2;

/// The blocks of a kernel: their threads, and how many of them share a multiprocessor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    pub threads: usize,
    pub per_multiprocessor: usize,
}

/// The blocks of `kernels/bias.cu`'s sums.
const SUMS: Blocks = Blocks { threads: 512, per_multiprocessor: 2 };

/// How a grid covers `[rows][channels]`; `struct ColumnGrid` in `kernels/reduce.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnGrid {
    rows: u64,
    channels: u32,
    /// Vectors of adjacent channels per block, a power of two.
    width: u32,
}

const _: () = assert!(size_of::<ColumnGrid>() == 16);

// SAFETY: numbers without padding bytes.
unsafe impl Pod for ColumnGrid {}

impl ColumnGrid {
    /// The size of the grid, and its parameters, for threads that process `lanes` channels each. There are no more
    /// blocks than fit a large device at once, and all have the same number of rows or one pass less.
    pub fn new(rows: usize, channels: usize, lanes: usize, blocks: Blocks) -> Result<([usize; 2], Self)> {
        let vectors = channels.div_ceil(lanes);
        let width = match vectors.next_power_of_two() {
            width if lanes > 1 => width.min(MAX_VECTORS),
            width => width.clamp(*SCALARS.start(), *SCALARS.end()),
        };
        let column_blocks = vectors.div_ceil(width);
        let most = (blocks.per_multiprocessor * MULTIPROCESSORS).min(MAX_COLUMN_BLOCKS) / column_blocks;
        let passes = rows.div_ceil(blocks.threads / width);
        let passes_per_block = passes.div_ceil(most.max(1)).max(if passes <= ALONE { ALONE } else { 1 });
        let grid = Self { rows: rows as u64, channels: fit(channels)?, width: fit(width)? };
        Ok(([column_blocks, passes.div_ceil(passes_per_block).max(1)], grid))
    }
}

impl Lowering<'_> {
    /// Launches blocks of `threads` threads.
    pub(super) fn launch_of(
        &mut self,
        threads: usize,
        kernel: impl Into<String>,
        grid: [usize; 2],
        params: Params,
    ) -> Result<()> {
        let launch = KernelLaunch::new(kernel, grid, 0, params)?;
        self.launches.push(Launch::Kernel(KernelLaunch { block: fit(threads)?, ..launch }));
        Ok(())
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
        let (blocks, grid) = ColumnGrid::new(d_output.len / channels, channels, lanes, SUMS)?;
        let params = params!(
            lowering.target, 64 bytes,
            [output, d_output, d_bias, partial = Buffer::Partials, block_counters = Buffer::BlockCounters],
            grid: ColumnGrid, slope: f32 = activation.code(),
        );
        lowering.launch_of(SUMS.threads, kernel, blocks, params)
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

    /// `output = activation(output + bias + residual)`, in place, over `[rows][channels]`.
    pub(super) fn bias_residual_forward(
        &mut self,
        activation: Activation,
        channels: usize,
        bias: Option<Span>,
        residual: Span,
        output: Span,
    ) -> Result<()> {
        let params = params!(
            self.target, 40 bytes, [bias, residual, output],
            count: u64 = output.len, channels: u32, slope: f32 = activation.code(),
        );
        let (kernel, lanes) = self.variant("bias_residual_forward", &[channels], &[residual, output]);
        self.launch_over(kernel, output.len / lanes, params)
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

//! Direct convolution kernels for a single input channel, without a matrix product.

use anyhow::Result;

use super::Lowering;
use super::geometry::Geometry;
use super::params::params;
use crate::cuda::program::{BLOCK, Buffer};
use crate::cuda::scratch::{MAX_DIRECT_BLOCKS, MAX_DIRECT_CHANNELS};
use crate::ops::{Conv2d, Conv2dBackwardWeight, Conv2dForward};

/// Minimum pixels that each thread of a weight gradient sums.
const MIN_PIXELS_PER_THREAD: usize = 4;

/// Whether a convolution has direct kernels.
pub(super) fn applies(op: &Conv2d) -> bool {
    op.input.channels == 1 && matches!(op.window.kernel, 3 | 5) && op.out_channels <= MAX_DIRECT_CHANNELS
}

/// Output channels per thread of the weight gradient, limited by registers.
fn channels_per_thread(op: &Conv2d) -> usize {
    if op.window.kernel == 3 { 4 } else { 1 }
}

impl Lowering<'_> {
    /// `output = activation(convolution + bias)` in one pass.
    pub(super) fn direct_forward(&mut self, conv: &Conv2dForward) -> Result<()> {
        let Conv2dForward { ref op, activation, input, weight, bias, output, .. } = *conv;
        let pixels = output.len / op.out_channels;
        let params = params!(
            self.target, 88 bytes,
            [input, weight = self.weight(weight), bias, output],
            pixels: u64, op: Geometry = Geometry::of_conv(op)?, slope: f32 = activation.code(),
        );
        let threads = pixels * op.out_channels.div_ceil(self.vector());
        self.launch_over(format!("direct_forward_{}", op.window.kernel), threads, params)
    }

    /// `d_weight`, summed over all pixels in one launch.
    pub(super) fn direct_backward_weight(&mut self, conv: &Conv2dBackwardWeight) -> Result<()> {
        let Conv2dBackwardWeight { op, input, d_output, d_weight } = *conv;
        let pixels = d_output.len / op.out_channels;
        let width = op.out_channels.div_ceil(channels_per_thread(&op)).next_power_of_two();
        let pixels_per_block = pixels.div_ceil(MAX_DIRECT_BLOCKS).max(MIN_PIXELS_PER_THREAD * BLOCK / width);
        let kernel = format!("direct_backward_weight_{}", op.window.kernel);
        let params = params!(
            self.target, 104 bytes,
            [input, d_output, d_weight, partial = Buffer::Partials, block_counters = Buffer::BlockCounters],
            pixels: u64, op: Geometry = Geometry::of_conv(&op)?, width: u32, pixels_per_block: u32,
        );
        self.launch(kernel, [pixels.div_ceil(pixels_per_block), 1], params)
    }
}

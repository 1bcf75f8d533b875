//! Convolutions of several groups or with gaps, by plain kernels.

use anyhow::Result;

use super::Lowering;
use super::geometry::Geometry;
use crate::cuda::program::{Address, params};
use crate::ops::{Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward};

/// Blocks of a weight gradient, at most; each then does several weights.
const MOST_BLOCKS: usize = 1 << 16;

params!(GroupedForwardParams, 88 bytes, [input, weight, bias, output], count: u64, op: Geometry, slope: f32);
params!(GroupedInputParams, 80 bytes, [d_output, weight, d_input], count: u64, op: Geometry);
params!(GroupedWeightParams, 88 bytes, [input, d_output, d_weight], count: u64, pixels: u64, op: Geometry);

impl Lowering<'_> {
    /// A pooling comes after in another pass, and takes bias and activation along.
    pub(super) fn grouped_forward(&mut self, conv: &Conv2dForward) -> Result<()> {
        let (activation, bias) = Self::before_pool(conv);
        let params = GroupedForwardParams {
            input: self.address(conv.input),
            weight: self.weight(conv.weight),
            bias: self.optional(bias),
            output: self.address(conv.output),
            count: conv.output.len as u64,
            op: Geometry::of_conv(&conv.op)?,
            slope: activation.code(),
        };
        self.launch_over("grouped_forward", conv.output.len, &params)?;
        self.pool_after(conv)
    }

    pub(super) fn grouped_weight(&mut self, conv: &Conv2dBackwardWeight) -> Result<()> {
        let count = conv.d_weight.len;
        let params = GroupedWeightParams {
            input: self.address(conv.input),
            d_output: self.address(conv.d_output),
            d_weight: self.address(conv.d_weight),
            count: count as u64,
            pixels: (conv.d_output.len / conv.op.out_channels) as u64,
            op: Geometry::of_conv(&conv.op)?,
        };
        self.launch("grouped_backward_weight", [count.min(MOST_BLOCKS), 1], &params)
    }

    pub(super) fn grouped_input(&mut self, conv: &Conv2dBackwardInput) -> Result<()> {
        let params = GroupedInputParams {
            d_output: self.address(conv.d_output),
            weight: self.weight(conv.weight),
            d_input: self.address(conv.d_input),
            count: conv.d_input.len as u64,
            op: Geometry::of_conv(&conv.op)?,
        };
        self.launch_over("grouped_backward_input", conv.d_input.len, &params)?;
        self.gradient_epilogue(conv.op.input.channels, conv.d_input, conv.epilogue)
    }
}

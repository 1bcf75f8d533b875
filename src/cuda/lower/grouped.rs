//! Convolutions of several groups or with gaps, by plain kernels.

use anyhow::Result;

use super::Lowering;
use super::geometry::Geometry;
use crate::cuda::program::{Address, grid_over, params};
use crate::ops::{Activation, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward};

/// Blocks of a weight gradient, at most; each then does several weights.
const MOST_BLOCKS: usize = 1 << 16;

#[repr(C)]
#[derive(Clone, Copy)]
struct GroupedForwardParams {
    input: Address,
    weight: Address,
    bias: Address,
    output: Address,
    count: u64,
    op: Geometry,
    slope: f32,
}
params!(GroupedForwardParams, 4 addresses, 88 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct GroupedInputParams {
    d_output: Address,
    weight: Address,
    d_input: Address,
    count: u64,
    op: Geometry,
    unused: u32,
}
params!(GroupedInputParams, 3 addresses, 80 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct GroupedWeightParams {
    input: Address,
    d_output: Address,
    d_weight: Address,
    count: u64,
    pixels: u64,
    op: Geometry,
    unused: u32,
}
params!(GroupedWeightParams, 3 addresses, 88 bytes);

impl Lowering<'_> {
    /// A pooling comes after in another pass, and takes bias and activation along.
    pub(super) fn grouped_forward(&mut self, conv: &Conv2dForward) -> Result<()> {
        let (activation, bias) = match conv.pool {
            Some(_) => (Activation::Identity, None),
            None => (conv.activation, conv.bias),
        };
        let params = GroupedForwardParams {
            input: self.address(conv.input),
            weight: self.weight(conv.weight),
            bias: self.optional(bias),
            output: self.address(conv.output),
            count: conv.output.len as u64,
            op: Geometry::of_conv(&conv.op)?,
            slope: activation.code(),
        };
        self.launch("grouped_forward", grid_over(conv.output.len), 0, &params);
        match conv.pool {
            Some(pool) => self.pool_maxima((conv.activation, conv.bias), conv.output, pool),
            None => Ok(()),
        }
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
            unused: 0,
        };
        self.launch("grouped_backward_weight", [count.min(MOST_BLOCKS) as u32, 1], 0, &params);
        Ok(())
    }

    pub(super) fn grouped_input(&mut self, conv: &Conv2dBackwardInput) -> Result<()> {
        let params = GroupedInputParams {
            d_output: self.address(conv.d_output),
            weight: self.weight(conv.weight),
            d_input: self.address(conv.d_input),
            count: conv.d_input.len as u64,
            op: Geometry::of_conv(&conv.op)?,
            unused: 0,
        };
        self.launch("grouped_backward_input", grid_over(conv.d_input.len), 0, &params);
        self.gradient_epilogue(conv.op.input.channels, conv.d_input, conv.epilogue)
    }
}

//! Grouped and dilated convolutions, with simple kernels.

use anyhow::Result;

use super::Lowering;
use super::geometry::Geometry;
use super::params::params;
use crate::ops::{Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward};

/// Maximum blocks of a weight gradient; beyond it each block computes several weights.
const MAX_BLOCKS: usize = 1 << 16;

impl Lowering<'_> {
    pub(super) fn grouped_forward(&mut self, conv: &Conv2dForward) -> Result<()> {
        let Conv2dForward { ref op, activation, input, weight, bias, output, .. } = *conv;
        let params = params!(
            self.target, 88 bytes, [input, weight = self.weight(weight), bias, output],
            count: u64 = output.len, op: Geometry = Geometry::of_conv(op)?, slope: f32 = activation.code(),
        );
        self.launch_over("grouped_forward", output.len, params)
    }

    pub(super) fn grouped_backward_weight(&mut self, conv: &Conv2dBackwardWeight) -> Result<()> {
        let Conv2dBackwardWeight { ref op, input, d_output, d_weight } = *conv;
        let params = params!(
            self.target, 88 bytes, [input, d_output, d_weight], count: u64 = d_weight.len,
            pixels: u64 = d_output.len / op.out_channels, op: Geometry = Geometry::of_conv(op)?,
        );
        self.launch("grouped_backward_weight", [d_weight.len.min(MAX_BLOCKS), 1], params)
    }

    pub(super) fn grouped_backward_input(&mut self, conv: &Conv2dBackwardInput) -> Result<()> {
        let Conv2dBackwardInput { ref op, d_output, weight, d_input, .. } = *conv;
        let params = params!(
            self.target, 80 bytes, [d_output, weight = self.weight(weight), d_input],
            count: u64 = d_input.len, op: Geometry = Geometry::of_conv(op)?,
        );
        self.launch_over("grouped_backward_input", d_input.len, params)
    }
}

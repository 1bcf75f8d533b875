//! Activations that are not fused into another operator.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::ops::{ActivationBackward, ActivationForward, RunOn};

impl RunOn<Lowering<'_>> for ActivationForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, input, output } = *self;
        let params =
            params!(lowering.target, 32 bytes, [input, output], count: u64 = output.len, slope: f32 = op.code());
        lowering.launch_over("activation_forward", output.len.div_ceil(lowering.vector()), params)
    }
}

impl RunOn<Lowering<'_>> for ActivationBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, output, d_output, d_input } = *self;
        let params = params!(
            lowering.target, 40 bytes, [output, d_output, d_input], count: u64 = d_input.len, slope: f32 = op.code()
        );
        lowering.launch_over("activation_backward", d_input.len.div_ceil(lowering.vector()), params)
    }
}

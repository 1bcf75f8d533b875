//! Activations on their own.

use anyhow::Result;

use super::Lowering;
use crate::cuda::program::{Address, params};
use crate::ops::{ActivationBackward, ActivationForward, RunOn};

params!(ActivationForwardParams, 32 bytes, [input, output], count: u64, slope: f32);
params!(ActivationBackwardParams, 40 bytes, [output, d_output, d_input], count: u64, slope: f32);

impl RunOn<Lowering<'_>> for ActivationForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let params = ActivationForwardParams {
            input: lowering.address(self.input),
            output: lowering.address(self.output),
            count: self.output.len as u64,
            slope: self.op.code(),
        };
        lowering.launch_over("activation_forward", self.output.len.div_ceil(lowering.vector()), &params)
    }
}

impl RunOn<Lowering<'_>> for ActivationBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let params = ActivationBackwardParams {
            output: lowering.address(self.output),
            d_output: lowering.address(self.d_output),
            d_input: lowering.address(self.d_input),
            count: self.d_input.len as u64,
            slope: self.op.code(),
        };
        lowering.launch_over("activation_backward", self.d_input.len.div_ceil(lowering.vector()), &params)
    }
}

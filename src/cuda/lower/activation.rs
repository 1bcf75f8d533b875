//! Activations on their own.

use anyhow::Result;

use super::Lowering;
use crate::cuda::program::{Address, grid_over, params};
use crate::ops::{ActivationBackward, ActivationForward, RunOn};

#[repr(C)]
#[derive(Clone, Copy)]
struct ActivationForwardParams {
    input: Address,
    output: Address,
    count: u64,
    slope: f32,
    unused: u32,
}
params!(ActivationForwardParams, 2 addresses, 32 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct ActivationBackwardParams {
    output: Address,
    d_output: Address,
    d_input: Address,
    count: u64,
    slope: f32,
    unused: u32,
}
params!(ActivationBackwardParams, 3 addresses, 40 bytes);

impl RunOn<Lowering<'_>> for ActivationForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let params = ActivationForwardParams {
            input: lowering.address(self.input),
            output: lowering.address(self.output),
            count: self.output.len as u64,
            slope: self.op.code(),
            unused: 0,
        };
        lowering.launch("activation_forward", grid_over(self.output.len.div_ceil(lowering.vector())), 0, &params);
        Ok(())
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
            unused: 0,
        };
        lowering.launch("activation_backward", grid_over(self.d_input.len.div_ceil(lowering.vector())), 0, &params);
        Ok(())
    }
}

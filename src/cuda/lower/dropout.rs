//! Dropout, with seed and step in device memory, where a captured step finds them.

use anyhow::Result;

use super::Lowering;
use crate::cuda::program::{Address, Buffer, grid_over, params};
use crate::ops::{DropoutPass, NextDropoutStep, RunOn};

#[repr(C)]
#[derive(Clone, Copy)]
struct DropoutParams {
    input: Address,
    state: Address,
    output: Address,
    count: u64,
    index: u32,
    threshold: u32,
    scale: f32,
    unused: u32,
}
params!(DropoutParams, 3 addresses, 48 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct DropoutStepParams {
    state: Address,
}
params!(DropoutStepParams, 1 addresses, 8 bytes);

const STATE: Address = Address::at(Buffer::DropoutStep);

impl RunOn<Lowering<'_>> for DropoutPass {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let params = DropoutParams {
            input: lowering.address(self.input),
            state: STATE,
            output: lowering.address(self.output),
            count: self.output.len as u64,
            index: self.op.index,
            threshold: self.op.threshold(),
            scale: self.op.scale(),
            unused: 0,
        };
        lowering.launch("dropout", grid_over(self.output.len.div_ceil(lowering.vector())), 0, &params);
        Ok(())
    }
}

impl RunOn<Lowering<'_>> for NextDropoutStep {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.launch("next_dropout_step", [1, 1], 0, &DropoutStepParams { state: STATE });
        Ok(())
    }
}

//! Dropout, with seed and step in device memory, where a captured step finds them.

use anyhow::Result;

use super::Lowering;
use crate::cuda::program::{Address, Buffer, params};
use crate::ops::{DropoutPass, NextDropoutStep, RunOn};

params!(DropoutParams, 48 bytes, [input, state, output], count: u64, index: u32, threshold: u32, scale: f32);
params!(DropoutStepParams, 8 bytes, [state]);

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
        };
        lowering.launch_over("dropout", self.output.len.div_ceil(lowering.vector()), &params)
    }
}

impl RunOn<Lowering<'_>> for NextDropoutStep {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.launch("next_dropout_step", [1, 1], &DropoutStepParams { state: STATE })
    }
}

//! Dropout. Seed and step are in device memory, so that a captured step reads their current values.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::cuda::program::Buffer;
use crate::ops::{DropoutPass, NextDropoutStep, RunOn};

impl RunOn<Lowering<'_>> for DropoutPass {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, input, output } = *self;
        let params = params!(
            lowering.target, 48 bytes, [input, state = Buffer::DropoutStep, output],
            count: u64 = output.len, index: u32 = op.index, threshold: u32 = op.threshold(), scale: f32 = op.scale(),
        );
        lowering.launch_over("dropout", output.len.div_ceil(lowering.vector()), params)
    }
}

impl RunOn<Lowering<'_>> for NextDropoutStep {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let params = params!(lowering.target, 8 bytes, [state = Buffer::DropoutStep]);
        lowering.launch("next_dropout_step", [1, 1], params)
    }
}

//! Gradient accumulation.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::ops::{AccumulateGradients, MicroBatch, RunOn};

impl RunOn<Lowering<'_>> for AccumulateGradients {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { weight, micro_batch, gradients, sum } = *self;
        let (earlier, output) = match micro_batch {
            MicroBatch::First => (None, sum),
            MicroBatch::Middle => (Some(sum), sum),
            MicroBatch::Last => (Some(sum), gradients),
        };
        let count = gradients.len;
        let params = params!(lowering.target, 40 bytes, [gradients, earlier, output], count: u64, weight: f32);
        lowering.launch_over("accumulate_gradients", count / 4 + count % 4, params)
    }
}

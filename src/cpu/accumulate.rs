//! Gradient accumulation on the CPU.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{AccumulateGradients, MicroBatch, RunOn};

impl RunOn<Cpu> for AccumulateGradients {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let Self { weight, micro_batch, gradients, sum } = *self;
        let [gradients, sum] = cpu.memory.floats([gradients, sum])?;
        let chunks = gradients.par_chunks_mut(ELEMENTWISE_CHUNK).zip(sum.par_chunks_mut(ELEMENTWISE_CHUNK));
        chunks.for_each(|(gradients, sum)| {
            let pairs = gradients.iter_mut().zip(sum);
            match micro_batch {
                MicroBatch::First => pairs.for_each(|(gradient, sum)| *sum = weight * *gradient),
                MicroBatch::Middle => pairs.for_each(|(gradient, sum)| *sum += weight * *gradient),
                MicroBatch::Last => pairs.for_each(|(gradient, sum)| *gradient = *sum + weight * *gradient),
            }
        });
        Ok(())
    }
}

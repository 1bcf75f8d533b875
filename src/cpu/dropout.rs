//! Dropout on the CPU.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK, Real, RunAs};
use crate::ops::{DropoutPass, NextDropoutStep, RunOn};
use crate::rng::{Purpose, draw};

/// The seed and step that determine the masks.
#[derive(Clone, Copy, Default)]
pub(super) struct State {
    pub seed: u64,
    pub step: u64,
}

impl RunAs for DropoutPass {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let State { seed, step } = cpu.dropout;
        let (index, threshold, scale) = (self.op.index, self.op.threshold(), self.op.scale());
        let [x, y] = cpu.memory.values::<R, _>([self.input, self.output])?;
        let chunks = x.par_chunks(ELEMENTWISE_CHUNK).zip(y.par_chunks_mut(ELEMENTWISE_CHUNK)).enumerate();
        chunks.for_each(|(chunk, (x, y))| {
            let first = (chunk * ELEMENTWISE_CHUNK / 4) as u64;
            for (four, (x, y)) in (first..).zip(x.chunks(4).zip(y.chunks_mut(4))) {
                let bits = draw(seed, Purpose::Dropout, index, (step << 32) + four);
                for ((y, x), bits) in y.iter_mut().zip(x).zip(bits) {
                    *y = if bits >= threshold { R::new(scale * x.get()) } else { R::ZERO };
                }
            }
        });
        Ok(())
    }
}

impl RunOn<Cpu> for NextDropoutStep {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        cpu.dropout.step += 1;
        Ok(())
    }
}

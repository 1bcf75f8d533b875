//! Dropout on the CPU.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{Dropout, DropoutOps, Span};
use crate::rng::{Purpose, draw};

/// What the masks of a step follow from.
#[derive(Clone, Copy, Default)]
pub(super) struct State {
    seed: u64,
    step: u64,
}

impl DropoutOps for Cpu {
    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()> {
        self.dropout = State { seed, step };
        Ok(())
    }

    fn dropout(&mut self, op: &Dropout, len: usize, input: Span, output: Span) -> Result<()> {
        let State { seed, step } = self.dropout;
        let (threshold, scale) = (op.threshold(), op.scale());
        let [x, y] = self.memory.floats([input.first(len), output.first(len)])?;
        let chunks = x.par_chunks(ELEMENTWISE_CHUNK).zip(y.par_chunks_mut(ELEMENTWISE_CHUNK)).enumerate();
        chunks.for_each(|(chunk, (x, y))| {
            let first = (chunk * ELEMENTWISE_CHUNK / 4) as u64;
            for (four, (x, y)) in (first..).zip(x.chunks(4).zip(y.chunks_mut(4))) {
                let bits = draw(seed, Purpose::Dropout, op.index, (step << 32) + four);
                for ((y, x), bits) in y.iter_mut().zip(x).zip(bits) {
                    *y = if bits >= threshold { scale * x } else { 0.0 };
                }
            }
        });
        Ok(())
    }

    fn next_dropout_step(&mut self) -> Result<()> {
        self.dropout.step += 1;
        Ok(())
    }
}

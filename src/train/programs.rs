//! The compiled programs of a run, each compiled once.

use anyhow::Result;

use crate::ops::Backend;
use crate::plan::{Plan, Sequence};

/// Programs by sequence and batch size. A sequence includes its settings, so a changed setting selects another program.
pub(super) struct Programs<B: Backend>(Vec<(Sequence, usize, B::Program)>);

impl<B: Backend> Default for Programs<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B: Backend> Programs<B> {
    /// Replaces the programs of training steps by those of another plan.
    pub fn replace_training(&mut self, others: Self) {
        self.0.retain(|(sequence, ..)| !matches!(sequence, Sequence::TrainStep(_)));
        self.0.extend(others.0);
    }

    /// Returns the program of a sequence for a batch size. Compiles it on first use.
    pub fn get(&mut self, backend: &mut B, plan: &Plan, sequence: Sequence, batch: usize) -> Result<&mut B::Program> {
        let index = match self.0.iter().position(|(known, size, _)| (known, *size) == (&sequence, batch)) {
            Some(index) => index,
            None => {
                let program = backend.compile(plan.steps(&sequence, batch))?;
                self.0.push((sequence, batch, program));
                self.0.len() - 1
            }
        };
        Ok(&mut self.0[index].2)
    }
}

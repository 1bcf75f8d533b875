//! The programs of a run, each made once for what it depends on.

use anyhow::Result;

use crate::ops::Backend;
use crate::plan::{Plan, Sequence};

/// Programs by their sequence and batch. Another setting is another program: none that was compiled into one can change
/// behind its back.
pub(super) struct Programs<B: Backend>(Vec<(Sequence, usize, B::Program)>);

impl<B: Backend> Default for Programs<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B: Backend> Programs<B> {
    /// The program of a sequence for a batch, compiled where it is not yet.
    pub fn get(&mut self, backend: &mut B, plan: &Plan, sequence: Sequence, batch: usize) -> Result<&mut B::Program> {
        let index = match self.0.iter().position(|(its, size, _)| (its, *size) == (&sequence, batch)) {
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

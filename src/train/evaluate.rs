//! Evaluation on the test set.

use anyhow::Result;

use super::Trainer;
use crate::ops::{Backend, Metrics, Subset};
use crate::plan::Sequence;

impl<B: Backend> Trainer<B> {
    /// Loss and accuracy over the whole test set, of the averaged weights where there are such. The metrics of the epoch at
    /// hand are put back afterwards.
    pub fn evaluate(&mut self) -> Result<Metrics> {
        let training = self.backend.read_metrics()?;
        let order: Vec<u32> = (0..self.test_count as u32).collect();
        self.backend.set_order(Subset::Test, &order, 0)?;
        self.backend.set_metrics(Metrics::default())?;
        if self.has_average() {
            self.backend.swap_average()?;
        }
        for begin in (0..self.test_count).step_by(self.eval_plan.max_batch) {
            let batch = self.eval_plan.max_batch.min(self.test_count - begin);
            let program = self.programs.get(&mut self.backend, &self.eval_plan, Sequence::EvaluateStep, batch)?;
            self.backend.run(program)?;
        }
        let metrics = self.backend.read_metrics()?;
        if self.has_average() {
            self.backend.swap_average()?;
        }
        self.backend.set_metrics(training)?;
        Ok(metrics)
    }
}

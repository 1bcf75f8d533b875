//! Training state on the CPU that persists across steps.

use anyhow::{Result, ensure};

use super::{Cpu, dropout};
use crate::ops::{Metrics, Mix, Region, StepLoss, TrainingState};

impl TrainingState for Cpu {
    fn set_metrics(&mut self, metrics: Metrics) -> Result<()> {
        self.loss.metrics = metrics;
        Ok(())
    }

    fn read_metrics(&mut self) -> Result<Metrics> {
        Ok(self.loss.metrics)
    }

    fn peek_metrics(&mut self) -> Option<Metrics> {
        Some(self.loss.metrics)
    }

    fn log_steps(&mut self, capacity: usize) -> Result<()> {
        self.loss.step_losses = Some(Vec::with_capacity(capacity));
        Ok(())
    }

    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>> {
        let Some(losses) = &mut self.loss.step_losses else { return Ok(Vec::new()) };
        let taken = losses.clone();
        losses.clear(); // keeps the capacity, so that a step does not allocate
        Ok(taken)
    }

    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()> {
        ensure!(!rates.is_empty(), "no learning rate was given");
        self.learning_rates.clear();
        self.learning_rates.extend(rates);
        Ok(())
    }

    fn update_count(&mut self) -> Result<u64> {
        Ok(self.updates)
    }

    fn set_update_count(&mut self, count: u64) -> Result<()> {
        self.updates = count;
        Ok(())
    }

    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()> {
        self.dropout = dropout::State { seed, step };
        Ok(())
    }

    fn set_mixes(&mut self, mixes: &[Mix]) -> Result<()> {
        ensure!(!mixes.is_empty(), "no mix was given");
        self.mix.set(mixes);
        Ok(())
    }

    fn set_class_weights(&mut self, weights: &[f32]) -> Result<()> {
        self.loss.weights = weights.to_vec();
        Ok(())
    }

    fn swap_average(&mut self) -> Result<()> {
        let whole = [Region::Parameters, Region::Average].map(|region| self.memory.whole(region));
        let [weights, average] = self.memory.update(whole)?;
        ensure!(weights.len() == average.len(), "no average of the parameters is kept");
        weights.swap_with_slice(average);
        Ok(())
    }
}

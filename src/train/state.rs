//! The state of a run, as plain values that a checkpoint stores, and its exchange with the backend.

use anyhow::{Result, ensure};

use super::Trainer;
use crate::network::Statistics;
use crate::ops::{Backend, LossScale, Metrics, Optimizer, Region, Span};

/// The progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Epochs completed.
    pub epoch: u32,
    /// Steps done in the current epoch.
    pub step_in_epoch: u64,
    /// Optimiser steps in total.
    pub total_steps: u64,
}

/// The best evaluation of a run; of equal ones, the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    pub test_accuracy: f64,
    /// Epochs begun at the time of the evaluation.
    pub epoch: u32,
}

/// The best evaluation of a run by the monitored number; of equal ones, the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    pub value: f64,
    /// Epochs begun at the time of the evaluation.
    pub epoch: u32,
}

/// Everything that changes during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainState {
    /// Flat, in memory layout.
    pub parameters: Vec<f32>,
    pub statistics: Statistics,
    /// Momentum, or Adam's first moments, in the order of the parameters; empty without either.
    pub momentum: Vec<f32>,
    /// Adam's second moments, in the order of the parameters; empty without Adam.
    pub second_moment: Vec<f32>,
    /// The moving average of the parameters, in their order; empty without averaging.
    pub average: Vec<f32>,
    /// The updates that the optimiser has made: all steps but those that an overflow skipped.
    pub update_count: u64,
    pub position: Position,
    /// Whether the steps of the epoch, or all that `max_steps` allows, are done but not evaluated.
    pub evaluation_pending: bool,
    /// Metrics of the current epoch; zero at its beginning.
    pub metrics: Metrics,
    /// `None` if the precision needs no loss scale.
    pub loss_scale: Option<LossScale>,
    /// `None` before the first evaluation.
    pub best: Option<Best>,
    /// `None` before the first evaluation, or if nothing is monitored.
    pub chosen: Option<Chosen>,
    /// Seconds spent in the current epoch.
    pub epoch_seconds: f64,
}

impl TrainState {
    /// The parameters to evaluate and to save as the model: the average, if there is one.
    pub fn model(&self) -> &[f32] {
        if self.average.is_empty() { &self.parameters } else { &self.average }
    }
}

impl<B: Backend> Trainer<B> {
    /// The state that another process needs to continue the run.
    pub fn state(&mut self) -> Result<TrainState> {
        let Optimizer { rule, .. } = self.hyper.optimizer;
        let momentum = self.read_state(Region::Momentum, rule.has_momentum())?;
        let second_moment = self.read_state(Region::SecondMoment, rule.has_second_moment())?;
        let average = self.read_state(Region::Average, self.has_average())?;
        let metrics = match self.position.step_in_epoch {
            0 => Metrics::default(),
            steps => Metrics { steps, ..self.backend.read_metrics()? },
        };
        Ok(TrainState {
            parameters: self.parameters()?,
            statistics: self.statistics()?,
            momentum,
            second_moment,
            average,
            update_count: self.backend.update_count()?,
            position: self.position,
            evaluation_pending: self.evaluation_pending,
            metrics,
            loss_scale: self.backend.loss_scale()?,
            best: self.best,
            chosen: self.chosen,
            epoch_seconds: self.earlier_seconds,
        })
    }

    /// Restores `state`, from which training then continues.
    ///
    /// # Errors
    /// The state has other parameters or another optimiser, or its position does not fit the data set.
    pub fn restore(&mut self, state: &TrainState) -> Result<()> {
        let Optimizer { rule, .. } = self.hyper.optimizer;
        ensure!(
            state.second_moment.is_empty() != rule.has_second_moment(),
            "the checkpoint is that of another optimiser than {}",
            rule.name()
        );
        self.check_frozen_at(state.position.epoch)?;
        self.set_parameters(&state.parameters)?;
        self.write_state(Region::Momentum, rule.has_momentum(), "momentum values", &state.momentum)?;
        self.write_state(Region::SecondMoment, rule.has_second_moment(), "second moments", &state.second_moment)?;
        self.write_state(Region::Average, self.has_average(), "averaged weights", &state.average)?;
        let (position, steps) = (state.position, self.steps_per_epoch());
        // The end of an epoch is a position of its own until the epoch is evaluated.
        let last = if state.evaluation_pending { steps } else { steps - 1 };
        let total = u64::from(position.epoch).checked_mul(steps).and_then(|t| t.checked_add(position.step_in_epoch));
        ensure!(
            position.step_in_epoch <= last && total == Some(position.total_steps),
            "the checkpoint is at step {} of epoch {}, {} steps in total, which does not fit epochs of {steps} steps",
            position.step_in_epoch,
            position.epoch + 1,
            position.total_steps
        );
        if let Some(loss_scale) = state.loss_scale {
            self.backend.set_loss_scale(loss_scale)?;
        }
        self.backend.set_update_count(state.update_count)?;
        self.position = position;
        self.unfreeze_if_due();
        self.evaluation_pending = state.evaluation_pending;
        self.set_statistics(&state.statistics)?;
        self.best = state.best;
        self.chosen = state.chosen;
        self.earlier_seconds = state.epoch_seconds;
        self.backend.set_metrics(Metrics { steps: self.batches_in_epoch(), ..state.metrics })
    }

    /// Reads a region with one number per parameter; empty if the region is not in use.
    fn read_state(&mut self, region: Region, in_use: bool) -> Result<Vec<f32>> {
        let all = Span::new(region, 0, self.network.parameter_count());
        if in_use { self.backend.read(all) } else { Ok(Vec::new()) }
    }

    /// Writes such a region. Fails if the number of values is not what this run needs.
    fn write_state(&mut self, region: Region, in_use: bool, what: &str, values: &[f32]) -> Result<()> {
        let count = if in_use { self.network.parameter_count() } else { 0 };
        ensure!(values.len() == count, "the checkpoint has {} {what}, this run needs {count}", values.len());
        if in_use { self.backend.write(Span::new(region, 0, count), values) } else { Ok(()) }
    }
}

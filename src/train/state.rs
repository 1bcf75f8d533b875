//! Where a run stands, as plain values that a checkpoint holds, and the backend's share of them.

use anyhow::{Result, ensure};

use super::Trainer;
use crate::network::Statistics;
use crate::ops::{Backend, LossScale, Metrics, Region, Span};

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Epochs completed.
    pub epoch: u32,
    /// Steps done in the current epoch.
    pub step_in_epoch: u64,
    /// Optimiser steps in all.
    pub total_steps: u64,
}

/// The best evaluation of a run, the first of equals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    pub test_accuracy: f64,
    /// Epochs completed or begun when it was made.
    pub epoch: u32,
}

/// Everything that changes as a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainState {
    /// Flat, in memory layout.
    pub parameters: Vec<f32>,
    pub statistics: Statistics,
    /// As the parameters; empty without momentum.
    pub momentum: Vec<f32>,
    /// The parameters' moving average, as the parameters; empty where none is kept.
    pub average: Vec<f32>,
    pub position: Position,
    /// Of the current epoch; zero at its beginning.
    pub metrics: Metrics,
    /// Where the precision has one.
    pub loss_scale: Option<LossScale>,
    /// None before the first evaluation.
    pub best: Option<Best>,
    /// Seconds spent in the current epoch.
    pub epoch_seconds: f64,
}

impl TrainState {
    /// The parameters to evaluate and to keep: the average, where there is one.
    pub fn model(&self) -> &[f32] {
        if self.average.is_empty() { &self.parameters } else { &self.average }
    }
}

impl<B: Backend> Trainer<B> {
    /// A region that has a number for every parameter, where it is in use; else nothing.
    pub(super) fn read_state(&mut self, region: Region, in_use: bool) -> Result<Vec<f32>> {
        let all = Span::new(region, 0, self.network.parameter_count());
        if in_use { self.backend.read(all) } else { Ok(Vec::new()) }
    }

    /// The reverse, where there are as many values as this run needs.
    pub(super) fn write_state(&mut self, region: Region, in_use: bool, what: &str, values: &[f32]) -> Result<()> {
        let count = if in_use { self.network.parameter_count() } else { 0 };
        ensure!(values.len() == count, "the checkpoint has {} {what}, this run needs {count}", values.len());
        if in_use { self.backend.write(Span::new(region, 0, count), values) } else { Ok(()) }
    }
}

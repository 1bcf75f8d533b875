//! Where a run stands, as plain values that a checkpoint holds.

use crate::network::Statistics;
use crate::ops::{LossScale, Metrics};

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Epochs completed.
    pub epoch: u32,
    /// Steps done in the epoch at hand.
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
    /// Of the epoch at hand; zero at its beginning.
    pub metrics: Metrics,
    /// Where the precision has one.
    pub loss_scale: Option<LossScale>,
    /// None before the first evaluation.
    pub best: Option<Best>,
    /// Seconds spent in the epoch at hand.
    pub epoch_seconds: f64,
}

impl TrainState {
    /// The parameters to evaluate and to keep: the average, where there is one.
    pub fn model(&self) -> &[f32] {
        if self.average.is_empty() { &self.parameters } else { &self.average }
    }
}

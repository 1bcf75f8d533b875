//! What the dashboard knows of a run, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use super::super::records::EpochRecord;
use crate::train::{LearningRate, Monitor};

/// Points that the curves have within the current epoch.
const TRACE: f64 = 100.0;

/// What does not change during a run.
#[derive(Clone, Debug, Default)]
pub struct RunFacts {
    pub title: String,
    pub device: String,
    pub epochs: u32,
    pub steps_per_epoch: u64,
    /// The steps of the whole run.
    pub steps: u64,
    pub images_per_step: usize,
    pub train_images: usize,
    pub learning_rate: LearningRate,
    pub monitor: Option<Monitor>,
}

/// A mean over the current epoch so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunningMean {
    /// In epochs since the start of the run.
    pub at: f64,
    pub loss: f64,
    pub accuracy: f64,
}

#[derive(Clone, Debug, Default)]
pub struct RunState {
    pub facts: Arc<RunFacts>,
    /// Since the dashboard was started.
    pub elapsed: Duration,
    /// The current epoch, counted from 0.
    pub epoch: u32,
    pub step_in_epoch: u64,
    pub is_evaluating: bool,
    pub images_per_second: Option<f64>,
    /// What uses the memory, and how many bytes.
    pub memory: Option<(&'static str, u64)>,
    pub records: Arc<Vec<EpochRecord>>,
    /// The last is the newest.
    pub trace: Vec<RunningMean>,
}

impl RunState {
    /// Records that `step_in_epoch` steps of an epoch are done; `mean` is that of loss and accuracy so far.
    pub fn step(&mut self, epoch: u32, step_in_epoch: u64, mean: Option<[f64; 2]>) {
        if (self.epoch, self.is_evaluating) != (epoch, false) {
            self.trace.clear();
        }
        (self.epoch, self.step_in_epoch, self.is_evaluating) = (epoch, step_in_epoch, false);
        let Some([loss, accuracy]) = mean else { return };
        let at = self.position();
        let is_near = |last: &RunningMean| at - last.at < 1.0 / TRACE;
        // The last but one, because the last point moves along with the step.
        if self.trace.len() > 1 && is_near(&self.trace[self.trace.len() - 2]) {
            self.trace.pop();
        }
        self.trace.push(RunningMean { at, loss, accuracy });
    }

    /// Records the evaluation of an epoch.
    pub fn evaluated(&mut self, record: EpochRecord) {
        (self.epoch, self.step_in_epoch, self.is_evaluating) = (record.epoch, 0, false);
        self.trace.clear();
        Arc::make_mut(&mut self.records).push(record);
    }

    /// Epochs done, in parts of one.
    pub fn position(&self) -> f64 {
        f64::from(self.epoch) + self.step_in_epoch as f64 / self.facts.steps_per_epoch.max(1) as f64
    }

    /// The learning rate of the last step, or before it, of the first.
    pub fn learning_rate(&self) -> f32 {
        let RunFacts { learning_rate, steps_per_epoch, epochs, .. } = *self.facts;
        learning_rate.at(self.steps_done().saturating_sub(1), steps_per_epoch, epochs)
    }

    fn steps_done(&self) -> u64 {
        u64::from(self.epoch) * self.facts.steps_per_epoch + self.step_in_epoch
    }

    /// The part of the run's steps that is done.
    pub fn part_done(&self) -> f64 {
        (self.steps_done() as f64 / self.facts.steps.max(1) as f64).min(1.0)
    }

    /// Training speed in this epoch, or else in the last.
    pub fn images_per_second(&self) -> Option<f64> {
        let last = || self.records.last().map(|record| record.images_per_second);
        self.images_per_second.or_else(last).filter(|rate| rate.is_finite() && *rate > 0.0)
    }

    pub fn step_seconds(&self) -> Option<f64> {
        Some(self.facts.images_per_step as f64 / self.images_per_second()?)
    }

    /// Seconds that are probably left of the epoch, with its evaluation, and of the run. Early stopping is not foreseen.
    pub fn seconds_left(&self) -> Option<[f64; 2]> {
        let per_step = self.step_seconds()?;
        let left = self.facts.steps.saturating_sub(self.steps_done());
        let in_epoch = left.min(self.facts.steps_per_epoch.saturating_sub(self.step_in_epoch));
        let evaluation = self.records.last().map_or(0.0, |last| {
            (last.seconds - self.facts.train_images as f64 / last.images_per_second.max(1e-9)).max(0.0)
        });
        let epochs_after = (left - in_epoch).div_ceil(self.facts.steps_per_epoch.max(1));
        let of_epoch = in_epoch as f64 * per_step + evaluation;
        let of_run = of_epoch + (left - in_epoch) as f64 * per_step + epochs_after as f64 * evaluation;
        Some([of_epoch, of_run])
    }
}

/// A duration as `4:05` or `1:04:05`.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

//! The lines of `metrics.jsonl`: one object per epoch and, if requested, one per step.

use serde::{Deserialize, Deserializer, Serialize};

use crate::train::Monitor;

/// One epoch. Accuracies are fractions of 1, losses means over samples.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: u32,
    /// Optimiser steps since the start of the run.
    pub steps: u64,
    #[serde(deserialize_with = "number_or_null")]
    pub train_loss: f64,
    pub train_accuracy: f64,
    /// Absent without a validation set, like the accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    #[serde(deserialize_with = "number_or_null")]
    pub test_loss: f64,
    pub test_accuracy: f64,
    /// Duration of the epoch, including evaluation.
    pub seconds: f64,
    /// Training speed, without evaluation. Earlier versions wrote `null` if the clock was too coarse.
    #[serde(deserialize_with = "number_or_null")]
    pub images_per_second: f64,
}

impl EpochRecord {
    /// The number by which `monitor` compares epochs; `None` if it needs a validation set and there was none.
    pub fn monitored(&self, monitor: Monitor) -> Option<f64> {
        match monitor {
            Monitor::ValLoss => self.val_loss,
            Monitor::ValAccuracy => self.val_accuracy,
            Monitor::TestLoss => Some(self.test_loss),
            Monitor::TestAccuracy => Some(self.test_accuracy),
        }
    }
}

/// The best epoch; of equal ones, the first. One that was cut short does not count after whole ones.
pub fn best_epoch(epochs: &[EpochRecord], monitor: Monitor) -> Option<&EpochRecord> {
    let first = epochs.first()?;
    let is_whole = |it: &&EpochRecord| it.steps * u64::from(first.epoch) >= first.steps * u64::from(it.epoch);
    let values = epochs.iter().filter(is_whole).filter_map(|epoch| Some((epoch.monitored(monitor)?, epoch)));
    values.reduce(|best, next| if monitor.is_better(next.0, best.0) { next } else { best }).map(|(_, epoch)| epoch)
}

/// One optimiser step, counted from 0. Loss and accuracy are those before its update.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct StepRecord {
    pub step: u64,
    #[serde(deserialize_with = "number_or_null")]
    pub loss: f64,
    pub accuracy: f64,
}

/// A line of the file. Its first field is `"kind":"epoch"` or `"kind":"step"`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    Epoch(EpochRecord),
    Step(StepRecord),
}

/// JSON has no NaN: the loss of a diverged run is written as `null` and read back as NaN.
fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

//! The lines of `metrics.jsonl`: one object per epoch and, where asked for, per step.

use serde::{Deserialize, Deserializer, Serialize};

/// Accuracies are parts of 1, losses means over samples.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: u32,
    /// Optimiser steps since the start of the run.
    pub steps: u64,
    #[serde(deserialize_with = "number_or_null")]
    pub train_loss: f64,
    pub train_accuracy: f64,
    #[serde(deserialize_with = "number_or_null")]
    pub test_loss: f64,
    pub test_accuracy: f64,
    /// Of the whole epoch, evaluation included.
    pub seconds: f64,
    /// Of training alone.
    pub images_per_second: f64,
}

/// One optimiser step, counted from 0; the loss is the one before its update.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct StepRecord {
    pub step: u64,
    #[serde(deserialize_with = "number_or_null")]
    pub loss: f64,
    pub accuracy: f64,
}

/// A line; its first field is `"kind":"epoch"` or `"kind":"step"`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    Epoch(EpochRecord),
    Step(StepRecord),
}

/// JSON has no NaN: the loss of a run that diverged is written as `null`, and read back as NaN.
fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

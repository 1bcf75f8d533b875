//! The lines of `metrics.jsonl`: one object per epoch and, if requested, one per step.

use serde::{Deserialize, Deserializer, Serialize};

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
    #[serde(deserialize_with = "number_or_null")]
    pub test_loss: f64,
    pub test_accuracy: f64,
    /// Duration of the epoch, including evaluation.
    pub seconds: f64,
    /// Training speed, without evaluation. Earlier versions wrote `null` if the clock was too coarse.
    #[serde(deserialize_with = "number_or_null")]
    pub images_per_second: f64,
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

//! The header of a checkpoint: the run that it belongs to and its position, and what values are plausible.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::network::Statistics;
use crate::ops::{LossScale, Metrics};
use crate::train::{Best, Chosen, Position, TrainState};

/// What must match for a run to resume from a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    pub model: String,
    pub dataset: String,
    pub train_images: usize,
    /// Fingerprint of the training images and labels, which detects another data set of the same name and size.
    pub data_fingerprint: u64,
    pub seed: u64,
    pub batch_size: usize,
    pub shuffle: bool,
    /// Since version 2, like the fields that follow.
    #[serde(default)]
    pub test_images: usize,
    #[serde(default)]
    pub test_fingerprint: u64,
    /// 0 without a validation set.
    #[serde(default)]
    pub val_images: usize,
    #[serde(default)]
    pub val_fingerprint: u64,
    /// Every other setting that affects the numbers of the run, as in `config.toml`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

impl RunIdentity {
    /// The most images of an optimiser step.
    fn images_per_step(&self) -> u64 {
        let accumulated = self.settings.get("grad-accum-steps").and_then(|steps| steps.parse().ok()).unwrap_or(1);
        (self.batch_size as u64).saturating_mul(accumulated)
    }
}

/// The metadata entry of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the file")]
pub(super) struct Header {
    version: u32,
    run: RunIdentity,
    epoch: u32,
    step_in_epoch: u64,
    total_steps: u64,
    /// Whether the evaluation at this position is yet to be made.
    #[serde(default)]
    evaluation_pending: bool,
    pub has_momentum: bool,
    /// Since version 3; then the momentum is Adam's first moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_second_moment: bool,
    #[serde(default)]
    pub has_average: bool,
    /// Updates of the optimiser: all steps but those that an overflow skipped. Earlier programs did not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updates: Option<u64>,
    /// Stored as bits, so that every value is exact.
    loss_sum_bits: u64,
    correct: u64,
    samples: u64,
    /// Scale, good steps and skipped steps of a half-precision run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<(f32, u32, u64)>,
    /// Bits of the best test accuracy, and its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best: Option<(u64, u32)>,
    /// Bits of the best value of the monitored number, and its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chosen: Option<(u64, u32)>,
    epoch_seconds: f64,
}

/// The latest version. Version 1 has no digest, and identifies a run by fewer properties. Version 3 has Adam's moments;
/// a checkpoint without them has version 2, which earlier programs read.
const VERSION: u32 = 3;

impl Header {
    pub fn new(run: &RunIdentity, state: &TrainState) -> Self {
        Self {
            version: if state.second_moment.is_empty() { 2 } else { VERSION },
            run: run.clone(),
            epoch: state.position.epoch,
            step_in_epoch: state.position.step_in_epoch,
            total_steps: state.position.total_steps,
            evaluation_pending: state.evaluation_pending,
            has_momentum: !state.momentum.is_empty(),
            has_second_moment: !state.second_moment.is_empty(),
            has_average: !state.average.is_empty(),
            updates: Some(state.update_count),
            loss_sum_bits: state.metrics.loss_sum.to_bits(),
            correct: state.metrics.correct,
            samples: state.metrics.samples,
            loss_scale: state.loss_scale.map(|scale| (scale.scale, scale.good_steps, scale.skipped_steps)),
            best: state.best.map(|best| (best.test_accuracy.to_bits(), best.epoch)),
            chosen: state.chosen.map(|chosen| (chosen.value.to_bits(), chosen.epoch)),
            epoch_seconds: state.epoch_seconds,
        }
    }

    /// The state that the header records, without the values of tensors.
    pub fn state(&self) -> TrainState {
        let &Self { epoch, step_in_epoch, total_steps, evaluation_pending, correct, samples, epoch_seconds, .. } = self;
        let loss_sum = f64::from_bits(self.loss_sum_bits);
        let scale = |(scale, good_steps, skipped_steps)| LossScale { scale, good_steps, skipped_steps };
        let skipped = self.loss_scale.map_or(0, |(.., skipped)| skipped);
        TrainState {
            parameters: Vec::new(),
            statistics: Statistics::default(),
            momentum: Vec::new(),
            second_moment: Vec::new(),
            average: Vec::new(),
            update_count: self.updates.unwrap_or(total_steps.saturating_sub(skipped)),
            position: Position { epoch, step_in_epoch, total_steps },
            evaluation_pending,
            metrics: Metrics { loss_sum, correct, samples, steps: step_in_epoch, first_bad_step: None },
            loss_scale: self.loss_scale.map(scale),
            best: self.best.map(|(accuracy, epoch)| Best { test_accuracy: f64::from_bits(accuracy), epoch }),
            chosen: self.chosen.map(|(value, epoch)| Chosen { value: f64::from_bits(value), epoch }),
            epoch_seconds,
        }
    }

    /// # Errors
    /// The run was tested on other images. A checkpoint of the first version does not say which.
    pub fn check_test_images(&self, count: usize, fingerprint: u64) -> Result<()> {
        let RunIdentity { test_images, test_fingerprint, .. } = self.run;
        let is_same = test_images == 0 || (test_images, test_fingerprint) == (count, fingerprint);
        ensure!(is_same, "the test images are not those of the run");
        Ok(())
    }

    /// # Errors
    /// A version that this program cannot read, or values that no run can have.
    pub fn check(&self, has_digest: bool) -> Result<()> {
        let version = self.version;
        ensure!(
            version <= VERSION,
            "it has version {version}, which a newer cnn-cuda wrote; this program reads versions up to {VERSION}"
        );
        ensure!(version == 1 || version > 1 && has_digest, "its header is damaged: it has no SHA-256");
        let TrainState { position, metrics, loss_scale, best, chosen, epoch_seconds, update_count, .. } = self.state();
        let is_within = |part: u64, whole: u64| part <= whole;
        let most = position.step_in_epoch.saturating_mul(self.run.images_per_step());
        let plausible = [
            ("number of images in the epoch", is_within(metrics.samples, most)),
            ("number of correct images", is_within(metrics.correct, metrics.samples)),
            ("sum of losses", metrics.loss_sum.is_finite()),
            ("number of steps", is_within(position.step_in_epoch, position.total_steps)),
            ("number of updates", is_within(update_count, position.total_steps)),
            ("loss scale", loss_scale.is_none_or(|it| it.scale.is_finite() && it.scale > 0.0)),
            ("best test accuracy", best.is_none_or(|best| (0.0..=1.0).contains(&best.test_accuracy))),
            ("best value", chosen.is_none_or(|chosen| chosen.value.is_finite())),
            ("best epoch", chosen.is_none_or(|chosen| chosen.epoch <= position.epoch.saturating_add(1))),
            ("best epoch", best.is_none_or(|best| best.epoch <= position.epoch.saturating_add(1))),
            ("time", epoch_seconds.is_finite() && epoch_seconds >= 0.0),
        ];
        let wrong = plausible.into_iter().find(|&(_, fine)| !fine);
        ensure!(wrong.is_none(), "its header is damaged: its {} is impossible", wrong.unwrap_or_default().0);
        Ok(())
    }

    /// # Errors
    /// The checkpoint is of a run with other settings than `run`; the message names the first difference.
    pub fn check_settings(&self, run: &RunIdentity) -> Result<()> {
        let there = &self.run;
        // A path is not recorded, because pictures may be moved.
        let dataset = |run: &RunIdentity| match run.dataset.as_str() {
            "pictures" => "the path of pictures".into(),
            name => format!("{name:?}"),
        };
        unchanged("model", &format!("{:?}", there.model), &format!("{:?}", run.model))?;
        unchanged("dataset", &dataset(there), &dataset(run))?;
        unchanged("seed", &there.seed.to_string(), &run.seed.to_string())?;
        unchanged("batch-size", &there.batch_size.to_string(), &run.batch_size.to_string())?;
        unchanged("shuffle", &there.shuffle.to_string(), &run.shuffle.to_string())?;
        let keys = there.settings.keys().chain(run.settings.keys()).filter(|_| self.version > 1);
        for key in keys {
            let [then, now] = [there, run].map(|it| it.settings.get(key).map_or("nothing", String::as_str));
            unchanged(key, then, now)?;
        }
        Ok(())
    }

    /// # Errors
    /// The checkpoint is of another run than `run`; the message names the first difference.
    pub fn check_run(&self, run: &RunIdentity) -> Result<()> {
        self.check_settings(run)?;
        let there = &self.run;
        same("number of training images", &there.train_images, &run.train_images)?;
        same("training data's fingerprint", &there.data_fingerprint, &run.data_fingerprint)?;
        if self.version == 1 {
            return Ok(());
        }
        same("number of validation images", &there.val_images, &run.val_images)?;
        same("validation data's fingerprint", &there.val_fingerprint, &run.val_fingerprint)?;
        same("number of test images", &there.test_images, &run.test_images)?;
        same("test data's fingerprint", &there.test_fingerprint, &run.test_fingerprint)
    }
}

/// Fails if a value of `config.toml` is not that of the checkpoint.
fn unchanged(key: &str, then: &str, now: &str) -> Result<()> {
    let (what, [then, now]) = first_difference(then, now);
    ensure!(
        then == now,
        "the run was started with {key}{what} = {then}, but its config.toml has {now}; restore {then} to resume it, or \
         start a new run"
    );
    Ok(())
}

/// The first elements that differ of two arrays of the same length, and which they are; other values as they are.
fn first_difference(then: &str, now: &str) -> (String, [String; 2]) {
    if let (Ok(Value::Array(then)), Ok(Value::Array(now))) = (serde_json::from_str(then), serde_json::from_str(now))
        && then.len() == now.len()
        && let Some(index) = (0..then.len()).find(|&index| then[index] != now[index])
    {
        return (format!("[{index}]"), [shown(&then[index]), shown(&now[index])]);
    }
    (String::new(), [then.into(), now.into()])
}

/// An f32 that was widened to f64 prints more digits than the user wrote.
fn shown(value: &Value) -> String {
    let narrow = value.as_f64().map(|wide| wide as f32).filter(|&narrow| Some(f64::from(narrow)) == value.as_f64());
    narrow.map_or_else(|| value.to_string(), |narrow| narrow.to_string())
}

fn same<T: PartialEq + Debug>(what: &str, there: &T, here: &T) -> Result<()> {
    ensure!(there == here, "its {what} is {there:?}, but this run's is {here:?}");
    Ok(())
}

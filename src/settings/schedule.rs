//! The length of a run, its learning-rate schedule and its initial weights.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{bounds, usage};
use crate::train::{Hyperparameters, Monitor, Schedule, WarmUp};

/// Settings of this group that may change when a run is resumed.
pub(super) const CHANGEABLE: &[&str] = &["epochs", "eval-batch-size", "max-steps", "target-accuracy", "patience"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Training")]
pub struct ScheduleSettings {
    /// Passes over the training images
    #[arg(long, value_name = "N", value_parser = bounds::epochs, default_value = "20", allow_negative_numbers = true)]
    pub epochs: Option<u32>,
    /// Learning-rate schedule: constant, step:EPOCHS:FACTOR, linear or linear:END (by default 0), cosine,
    /// one-cycle or one-cycle:RISE
    #[arg(long, value_name = "SCHEDULE", default_value = "constant")]
    pub schedule: Option<Schedule>,
    /// Epochs of linear warm-up, in which the learning rate rises from nearly zero
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub warm_up: Option<u32>,
    /// Optimiser steps of linear warm-up, instead of --warm-up
    #[arg(long, value_name = "N", value_parser = bounds::steps, allow_negative_numbers = true)]
    pub warm_up_steps: Option<u64>,
    /// Images per evaluation step
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "128", allow_negative_numbers = true)]
    pub eval_batch_size: Option<usize>,
    /// Random seed of initial weights, image order, augmentation and dropout
    #[arg(long, value_name = "N", value_parser = bounds::seed, default_value = "0", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Shuffle the training images in every epoch; --no-shuffle keeps the order of the files
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "true")]
    pub shuffle: Option<bool>,
    /// Stop after N optimiser steps in total
    #[arg(long, value_name = "N", value_parser = bounds::steps, allow_negative_numbers = true)]
    pub max_steps: Option<u64>,
    /// Stop when the test accuracy reaches X, such as 0.99, and print the time it took
    #[arg(long, value_name = "X", value_parser = bounds::accuracy, allow_negative_numbers = true)]
    pub target_accuracy: Option<f64>,
    /// Number by which the best epoch is chosen, whose weights become model.safetensors: val-loss, val-accuracy, test-loss
    /// or test-accuracy [default: val-loss if there is a validation set, else none: the last epoch]
    #[arg(long, value_name = "NAME")]
    pub monitor: Option<Monitor>,
    /// Stop after N epochs without a better one by --monitor; without a validation set, by the test accuracy
    #[arg(long, value_name = "N", value_parser = bounds::epochs, allow_negative_numbers = true)]
    pub patience: Option<u32>,
    /// Start from these weights, which must fit the network (safetensors, or .pth of torch.save)
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
}

impl ScheduleSettings {
    pub fn apply(&self, hyper: &mut Hyperparameters) {
        hyper.epochs = self.epochs.unwrap_or_default();
        hyper.eval_batch_size = self.eval_batch_size.unwrap_or_default();
        hyper.learning_rate.schedule = self.schedule.unwrap_or_default();
        let epochs = WarmUp::Epochs(self.warm_up.unwrap_or_default());
        hyper.learning_rate.warm_up = self.warm_up_steps.map_or(epochs, WarmUp::Steps);
        hyper.seed = self.seed.unwrap_or_default();
        hyper.shuffle = self.shuffle.unwrap_or_default();
        hyper.max_steps = self.max_steps;
        hyper.target_accuracy = self.target_accuracy;
        hyper.monitor = self.monitor;
        hyper.patience = self.patience;
    }

    /// Chooses how the best epoch is found, if that is not given. Returns a warning if it is by the test set.
    ///
    /// # Errors
    /// `--monitor` needs a validation set, and there is none.
    pub fn choose_monitor(&mut self, has_validation: bool) -> Result<Option<String>> {
        if let Some(monitor) = self.monitor.filter(|monitor| monitor.needs_validation()) {
            usage(has_validation, || {
                format!(
                    "--monitor {monitor} needs a validation set: --val-fraction, or a folder val beside train and test"
                )
            })?;
        }
        self.monitor = self.monitor.or(has_validation.then_some(Monitor::ValLoss));
        Ok(match self.monitor {
            None if self.patience.is_some() => Some(
                "--patience watches the accuracy on the test set, which then is no longer unseen; --val-fraction holds \
                 out images for it"
                    .into(),
            ),
            Some(monitor) if !monitor.needs_validation() => Some(format!(
                "--monitor {monitor} chooses the best epoch by the test set, so its test accuracy is better than on new \
                 images"
            )),
            _ => None,
        })
    }

    /// # Errors
    /// The warm-up is not shorter than the run, or is given twice.
    pub fn check(&self) -> Result<()> {
        let (epochs, warm_up) = (self.epochs.unwrap_or_default(), self.warm_up.unwrap_or_default());
        usage(warm_up == 0 || self.warm_up_steps.is_none(), || {
            "--warm-up and --warm-up-steps are two lengths of the same warm-up; leave one out, or add --no-warm-up or \
             --no-warm-up-steps"
                .into()
        })?;
        usage(warm_up < epochs, || format!("--warm-up {warm_up} must be shorter than the run of {epochs} epochs"))
    }

    /// Whether the learning rate depends on the number of epochs, which then may not change when a run is resumed.
    pub fn depends_on_epochs(&self) -> bool {
        matches!(self.schedule, Some(Schedule::Linear { .. } | Schedule::Cosine | Schedule::OneCycle { .. }))
    }
}

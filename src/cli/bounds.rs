//! What the values of a configuration may be, wherever they come from.

use anyhow::{Result, ensure};

use super::config::Config;
use super::input::{InputConfig, PictureConfig};

impl Config {
    /// What the flags' parsers check, for values that come from a file.
    pub fn check(&self) -> Result<()> {
        ensure!(self.epochs > 0, "epochs 0");
        for (key, size) in [("batch-size", self.batch_size), ("eval-batch-size", self.eval_batch_size)] {
            ensure!((1..=1_000_000).contains(&size), "{key} {size}: it must be between 1 and 1000000");
        }
        ensure!(self.threads.is_none_or(|threads| (1..=1024).contains(&threads)), "threads: between 1 and 1024");
        ensure!(self.max_steps != Some(0), "max-steps 0");
        ensure!(self.lr.is_finite() && self.lr > 0.0, "lr {}", self.lr);
        ensure!(self.warm_up < self.epochs, "warm-up {} of {} epochs", self.warm_up, self.epochs);
        ensure!(self.patience != Some(0), "patience 0");
        let share = |accuracy: Option<f64>| accuracy.is_none_or(|accuracy| accuracy > 0.0 && accuracy <= 1.0);
        ensure!(share(self.target_accuracy), "target-accuracy is no share of 1");
        ensure!(share(self.expected_accuracy), "expected-accuracy is no share of 1");
        ensure!((0.0..1.0).contains(&self.momentum), "momentum {}", self.momentum);
        ensure!(!self.nesterov || self.momentum > 0.0, "nesterov without momentum");
        ensure!(self.weight_decay.is_finite() && self.weight_decay >= 0.0, "weight-decay {}", self.weight_decay);
        ensure!(self.clip_grad_norm.is_none_or(|norm| norm.is_finite() && norm > 0.0), "clip-grad-norm is not above 0");
        ensure!(self.ema.is_none_or(|decay| decay > 0.0 && decay < 1.0), "ema is not between 0 and 1");
        self.augmentation.check()?;
        for (key, part) in [("label-smoothing", self.label_smoothing), ("dropout", self.dropout.unwrap_or(0.0))] {
            ensure!((0.0..1.0).contains(&part), "{key} {part}: it must be at least 0 and below 1");
        }
        self.pictures.as_ref().map_or(Ok(()), PictureConfig::check)?;
        self.input.as_ref().map_or(Ok(()), InputConfig::check)
    }
}

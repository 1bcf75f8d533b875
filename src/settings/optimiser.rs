//! The optimiser: batch size, learning rate, SGD, gradient clipping, weight averaging and label smoothing.

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{bounds, usage};
use crate::ops::Sgd;
use crate::train::Hyperparameters;

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Optimiser")]
pub struct OptimiserSettings {
    /// Images per optimiser step
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "64", allow_negative_numbers = true)]
    pub batch_size: Option<usize>,
    /// Learning rate
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, default_value = "0.1", allow_negative_numbers = true)]
    pub lr: Option<f32>,
    /// SGD momentum, as defined by PyTorch
    #[arg(long, value_name = "X", value_parser = bounds::below_one, default_value = "0", allow_negative_numbers = true)]
    pub momentum: Option<f32>,
    /// Nesterov momentum
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub nesterov: Option<bool>,
    /// L2 penalty, added to the gradient as in PyTorch's SGD
    #[arg(long, value_name = "X", value_parser = bounds::non_negative, default_value = "0", allow_negative_numbers = true)]
    pub weight_decay: Option<f32>,
    /// Scale all gradients down so that their norm is at most X, as PyTorch's clip_grad_norm_ does
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, allow_negative_numbers = true)]
    pub clip_grad_norm: Option<f32>,
    /// Evaluate and save an exponential moving average of the weights, with this decay per step, such as 0.999
    #[arg(long, value_name = "DECAY", value_parser = bounds::fraction, allow_negative_numbers = true)]
    pub ema: Option<f64>,
    /// Label smoothing, as in PyTorch's CrossEntropyLoss; the test loss is computed without it
    #[arg(long, value_name = "X", value_parser = bounds::below_one, default_value = "0", allow_negative_numbers = true)]
    pub label_smoothing: Option<f32>,
}

impl OptimiserSettings {
    pub fn apply(&self, hyper: &mut Hyperparameters) {
        hyper.batch_size = self.batch_size.unwrap_or_default();
        hyper.learning_rate.rate = self.lr.unwrap_or_default();
        hyper.label_smoothing = self.label_smoothing.unwrap_or_default();
        hyper.sgd = Sgd {
            momentum: self.momentum.unwrap_or_default(),
            nesterov: self.nesterov.unwrap_or_default(),
            weight_decay: self.weight_decay.unwrap_or_default(),
            clip_norm: self.clip_grad_norm,
            average_decay: self.ema,
            frozen: 0, // set by the trainer, from the network
        };
    }

    /// # Errors
    /// Nesterov momentum without momentum.
    pub fn check(&self) -> Result<()> {
        let has_momentum = self.momentum.is_some_and(|momentum| momentum > 0.0);
        usage(self.nesterov != Some(true) || has_momentum, || "--nesterov needs a --momentum above 0".into())
    }
}

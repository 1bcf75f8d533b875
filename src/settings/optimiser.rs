//! The optimiser: batch size, learning rate, SGD, Adam and Muon, gradient clipping, weight averaging and label smoothing.

use std::str::FromStr;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::layers::Layer;
use super::{ClassWeights, bounds, usage};
use crate::network::{GroupRules, MuonGroups, Network};
use crate::ops::{Adam, Muon, Optimizer, Rule, Sgd};
use crate::train::Hyperparameters;

/// Settings of this group that checkpoints of earlier versions do not have. They are recorded unless they have their
/// defaults, so that runs of earlier versions can be resumed.
pub(super) const NEWER: &[&str] = &[
    "optimizer",
    "decay-norm-bias",
    "head-lr-scale",
    "bias-lr-scale",
    "unscaled-decay",
    "muon-normalise",
    "ema-warm-up",
    "grad-accum-steps",
];

/// The default of `--sgd-lr`.
const SGD_LR: f32 = 0.1;

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Optimiser")]
pub struct OptimiserSettings {
    /// Images per optimiser step, or with --grad-accum-steps per forward and backward pass
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "64", allow_negative_numbers = true)]
    pub batch_size: Option<usize>,
    /// Batches per optimiser step, whose gradient is the mean over their images: N times the batch in the memory of one
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "1", allow_negative_numbers = true)]
    pub grad_accum_steps: Option<usize>,
    /// Optimiser, as defined by PyTorch
    #[arg(long, value_enum, value_name = "NAME", default_value = "sgd")]
    pub optimizer: Option<OptimizerChoice>,
    /// Learning rate [default: 0.1; for adam and adamw 0.001, for muon 0.02]
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, default_value = "0.1", hide_default_value = true, allow_negative_numbers = true)]
    pub lr: Option<f32>,
    /// Momentum of SGD or Muon, as defined by PyTorch [default: 0; for muon 0.95]
    #[arg(long, value_name = "X", value_parser = bounds::below_one, default_value = "0", hide_default_value = true, allow_negative_numbers = true)]
    pub momentum: Option<f32>,
    /// Nesterov momentum [default: off; for muon on]
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub nesterov: Option<bool>,
    /// With muon, the learning rate of the parameters that SGD updates [default: 0.1]
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, allow_negative_numbers = true)]
    pub sgd_lr: Option<f32>,
    /// With muon, the Nesterov momentum of the parameters that SGD updates [default: 0.9]
    #[arg(long, value_name = "X", value_parser = bounds::below_one, allow_negative_numbers = true)]
    pub sgd_momentum: Option<f32>,
    /// With muon, the iterations of Newton and Schulz [default: 5]
    #[arg(long, value_name = "N", value_parser = bounds::iterations, allow_negative_numbers = true)]
    pub ns_steps: Option<u32>,
    /// With muon, scale the weight of each convolution to the norm √(output channels) in every step, as airbench does;
    /// weight decay then does not apply to it
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub muon_normalise: Option<bool>,
    /// Coefficients of Adam's running averages of the gradient and of its square [default: 0.9,0.999]
    #[arg(long, value_name = "B1,B2", allow_hyphen_values = true)]
    pub betas: Option<Betas>,
    /// Added by Adam to the denominator [default: 1e-8]
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, allow_negative_numbers = true)]
    pub eps: Option<f32>,
    /// Weight decay: an L2 penalty that is added to the gradient, as in PyTorch's SGD and Adam; for adamw and the
    /// convolutions of muon, the decoupled decay of PyTorch's AdamW and Muon [default: 0; for adamw 0.01]
    #[arg(long, value_name = "X", value_parser = bounds::non_negative, default_value = "0", hide_default_value = true, allow_negative_numbers = true)]
    pub weight_decay: Option<f32>,
    /// Apply weight decay also to biases and to the scale and shift of batch normalisations; --no-decay-norm-bias exempts
    /// them, as timm does
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "true")]
    pub decay_norm_bias: Option<bool>,
    /// Factor of the learning rate of the head: the weight and bias of the last linear layer
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, default_value = "1", allow_negative_numbers = true)]
    pub head_lr_scale: Option<f32>,
    /// Factor of the learning rate of all biases, including the shift of batch normalisations
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, default_value = "1", allow_negative_numbers = true)]
    pub bias_lr_scale: Option<f32>,
    /// Divide weight decay by the factors of the learning rate, so that the weights of head and biases shrink as fast as
    /// all others
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub unscaled_decay: Option<bool>,
    /// Scale all gradients down so that their norm is at most X, as PyTorch's clip_grad_norm_ does
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, allow_negative_numbers = true)]
    pub clip_grad_norm: Option<f32>,
    /// Evaluate and save an exponential moving average of the weights, with this decay per step, such as 0.999
    #[arg(long, value_name = "DECAY", value_parser = bounds::fraction, allow_negative_numbers = true)]
    pub ema: Option<f64>,
    /// With --ema, a smaller decay at first: in step t, counted from 0, at most (1 + t) / (10 + t)
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub ema_warm_up: Option<bool>,
    /// Label smoothing, as in PyTorch's CrossEntropyLoss; the test loss is computed without it
    #[arg(long, value_name = "X", value_parser = bounds::below_one, default_value = "0", allow_negative_numbers = true)]
    pub label_smoothing: Option<f32>,
    /// Weights of the classes in the training loss, as PyTorch's CrossEntropyLoss(weight=…): balanced, which is inversely
    /// proportional to their numbers of images, or a TOML file of lines class = weight
    #[arg(long, value_name = "balanced|FILE")]
    pub class_weights: Option<ClassWeights>,
}

/// `--optimizer`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum OptimizerChoice {
    /// Stochastic gradient descent, with --momentum and --nesterov
    #[default]
    Sgd,
    /// Adam, with --betas and --eps
    Adam,
    /// Adam with decoupled weight decay, with --betas and --eps
    AdamW,
    /// Muon for the weights of all convolutions but the first, and SGD with Nesterov momentum for other parameters
    Muon,
}

impl OptimizerChoice {
    fn name(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::Adam => "adam",
            Self::AdamW => "adamw",
            Self::Muon => "muon",
        }
    }

    /// The default of `--lr`.
    fn learning_rate(self) -> f32 {
        match self {
            Self::Sgd => 0.1,
            Self::Adam | Self::AdamW => 1e-3,
            Self::Muon => 0.02,
        }
    }

    /// The default of `--weight-decay`.
    fn weight_decay(self) -> f32 {
        match self {
            Self::Sgd | Self::Adam | Self::Muon => 0.0,
            Self::AdamW => 0.01,
        }
    }
}

/// `--betas`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "[f64; 2]", from = "[f64; 2]")]
pub struct Betas([f64; 2]);

impl From<Betas> for [f64; 2] {
    fn from(betas: Betas) -> Self {
        betas.0
    }
}

impl From<[f64; 2]> for Betas {
    fn from(betas: [f64; 2]) -> Self {
        Self(betas)
    }
}

impl FromStr for Betas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let beta = |text: &str| text.trim().parse::<f64>().ok().filter(|beta| (0.0..1.0).contains(beta));
        let betas = text.split_once(',').and_then(|(first, second)| Some([beta(first)?, beta(second)?]));
        betas.map(Self).ok_or_else(|| "it must be two numbers of at least 0 and below 1, such as 0.9,0.999".into())
    }
}

impl OptimiserSettings {
    pub fn apply(&self, hyper: &mut Hyperparameters) {
        hyper.batch_size = self.batch_size.unwrap_or_default();
        hyper.grad_accum_steps = self.grad_accum_steps;
        hyper.learning_rate.rate = self.lr.unwrap_or_default();
        hyper.label_smoothing = self.label_smoothing.unwrap_or_default();
        hyper.weighted = self.class_weights.is_some();
        hyper.optimizer = Optimizer {
            rule: self.rule(),
            weight_decay: self.weight_decay.unwrap_or_default(),
            clip_norm: self.clip_grad_norm,
            average_decay: self.ema,
            average_warm_up: self.ema_warm_up.unwrap_or_default(),
        };
    }

    /// The network with the groups of parameters that the settings ask for.
    ///
    /// # Errors
    /// `--head-lr-scale` is given for a network without a linear layer.
    pub fn group(&self, network: Network) -> Result<Network> {
        let usual = GroupRules::default();
        let rules = GroupRules {
            decay_norm_bias: self.decay_norm_bias.unwrap_or(usual.decay_norm_bias),
            head_rate_scale: self.head_lr_scale.unwrap_or(usual.head_rate_scale),
            bias_rate_scale: self.bias_lr_scale.unwrap_or(usual.bias_rate_scale),
            unscaled_decay: self.unscaled_decay.unwrap_or(usual.unscaled_decay),
            muon: (self.choice() == OptimizerChoice::Muon).then(|| MuonGroups {
                sgd_rate_scale: self.sgd_lr.unwrap_or(SGD_LR) / self.lr.unwrap_or_default(),
                decays: self.muon_normalise != Some(true),
            }),
        };
        network.with_groups(rules).context("--head-lr-scale")
    }

    fn choice(&self) -> OptimizerChoice {
        self.optimizer.unwrap_or_default()
    }

    fn rule(&self) -> Rule {
        let adam = |decoupled| {
            let (usual, betas) = (Adam::default(), self.betas.map(<[f64; 2]>::from));
            let (betas, epsilon) = (betas.unwrap_or(usual.betas), self.eps.unwrap_or(usual.epsilon));
            Rule::Adam(Adam { betas, epsilon, decoupled })
        };
        match self.choice() {
            OptimizerChoice::Sgd => Rule::sgd(self.momentum.unwrap_or_default(), self.nesterov.unwrap_or_default()),
            OptimizerChoice::Adam => adam(false),
            OptimizerChoice::AdamW => adam(true),
            OptimizerChoice::Muon => {
                let (momentum, nesterov) = (self.momentum.unwrap_or_default(), self.nesterov.unwrap_or_default());
                let usual = Muon::default();
                let sgd_momentum = self.sgd_momentum.unwrap_or(usual.sgd.momentum);
                let sgd = Sgd { momentum: sgd_momentum, nesterov: sgd_momentum > 0.0 };
                let iterations = self.ns_steps.unwrap_or(usual.iterations);
                let normalises = self.muon_normalise.unwrap_or(usual.normalises);
                Rule::Muon(Muon { momentum, nesterov, iterations, normalises, sgd })
            }
        }
    }

    /// Fills in the defaults that depend on the optimiser, for settings that none of the layers gives.
    pub(super) fn complete(&mut self, layers: &[&Layer]) {
        let choice = self.choice();
        let is_given = |key: &str, given: fn(&Self) -> bool| {
            layers.iter().any(|layer| given(&layer.given.optimiser) || layer.off.iter().any(|off| off == key))
        };
        if !is_given("lr", |it| it.lr.is_some()) {
            self.lr = Some(choice.learning_rate());
        }
        if !is_given("weight-decay", |it| it.weight_decay.is_some()) {
            self.weight_decay = Some(choice.weight_decay());
        }
        match self.rule() {
            Rule::Sgd(_) => {}
            Rule::Adam(adam) => {
                self.betas = Some(Betas(adam.betas));
                self.eps = Some(adam.epsilon);
            }
            Rule::Muon(muon) => {
                let usual = Muon::default();
                if !is_given("momentum", |it| it.momentum.is_some()) {
                    self.momentum = Some(usual.momentum);
                }
                if !is_given("nesterov", |it| it.nesterov.is_some()) {
                    self.nesterov = Some(usual.nesterov && self.momentum > Some(0.0));
                }
                self.sgd_momentum = Some(muon.sgd.momentum);
                self.sgd_lr.get_or_insert(SGD_LR);
            }
        }
    }

    /// # Errors
    /// Nesterov momentum without momentum, the warm-up of an average without one, or a setting that the optimiser does
    /// not use.
    pub fn check(&self) -> Result<()> {
        let has_momentum = self.momentum.is_some_and(|momentum| momentum > 0.0);
        let (name, has_nesterov) = (self.choice().name(), self.nesterov == Some(true));
        let momentum = [("--momentum", has_momentum), ("--nesterov", has_nesterov)];
        let adam = [("--betas", self.betas.is_some()), ("--eps", self.eps.is_some())];
        let muon = [
            ("--sgd-lr", self.sgd_lr.is_some()),
            ("--sgd-momentum", self.sgd_momentum.is_some()),
            ("--ns-steps", self.ns_steps.is_some()),
            ("--muon-normalise", self.muon_normalise == Some(true)),
        ];
        let clipping = ("--clip-grad-norm", self.clip_grad_norm.is_some());
        let unused = match self.choice() {
            OptimizerChoice::Sgd => [&adam[..], &muon].concat(),
            OptimizerChoice::Adam | OptimizerChoice::AdamW => [&momentum[..], &muon].concat(),
            // An orthogonalised direction does not depend on the norm of the gradient.
            OptimizerChoice::Muon => [&adam[..], &[clipping]].concat(),
        };
        for (flag, given) in unused {
            let off = flag.trim_start_matches("--");
            usage(!given, || format!("{flag} has no effect with --optimizer {name}; leave it out, or add --no-{off}"))?;
        }
        usage(self.ema.is_some() || self.ema_warm_up != Some(true), || {
            "--ema-warm-up needs --ema, the decay after the warm-up".into()
        })?;
        usage(!has_nesterov || has_momentum, || "--nesterov needs a --momentum above 0".into())
    }

    /// A description of an optimiser that is not the default; `None` for SGD.
    pub fn describe(&self) -> Option<String> {
        let (lr, decay) = (self.lr.unwrap_or_default(), self.weight_decay.unwrap_or_default());
        let name = self.rule().name();
        match self.rule() {
            Rule::Sgd(_) => None,
            Rule::Adam(Adam { betas: [first, second], epsilon, .. }) => Some(format!(
                "{name}: learning rate {lr}, betas {first}, {second}, eps {epsilon:e}, weight decay {decay}"
            )),
            Rule::Muon(Muon { momentum, sgd, .. }) => Some(format!(
                "{name} for all convolutions but the first: learning rate {lr}, momentum {momentum}, weight decay \
                 {decay}; SGD for other parameters: learning rate {}, momentum {}",
                self.sgd_lr.unwrap_or(SGD_LR),
                sgd.momentum
            )),
        }
    }
}

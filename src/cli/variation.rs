//! What a user may change in any network: its activations, and the filters it begins with.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::network::{FirstLayer, Network};
use crate::ops::Activation;

/// `--activation`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ActivationChoice(Activation);

/// PyTorch's slope of `LeakyReLU`.
const USUAL_SLOPE: f32 = 0.01;

impl FromStr for ActivationChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let slope = |text: &str| text.parse::<f32>().ok().filter(|slope| *slope > 0.0 && *slope < 1.0);
        match text.split_once(':') {
            None if text == "relu" => Ok(Self(Activation::Relu)),
            None if text == "tanh" => Ok(Self(Activation::Tanh)),
            None if text == "leaky-relu" => Ok(Self(Activation::LeakyRelu { slope: USUAL_SLOPE })),
            Some(("leaky-relu", number)) => {
                let slope = slope(number).ok_or("leaky-relu:SLOPE takes a number between 0 and 1")?;
                Ok(Self(Activation::LeakyRelu { slope }))
            }
            _ => Err("it is relu, leaky-relu, leaky-relu:SLOPE or tanh".into()),
        }
    }
}

impl fmt::Display for ActivationChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Activation::LeakyRelu { slope } => write!(f, "leaky-relu:{slope}"),
            Activation::Tanh => f.write_str("tanh"),
            _ => f.write_str("relu"),
        }
    }
}

impl From<ActivationChoice> for String {
    fn from(choice: ActivationChoice) -> Self {
        choice.to_string()
    }
}

impl TryFrom<String> for ActivationChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `--conv1`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conv1 {
    /// Random, as every other layer
    #[default]
    Drawn,
    /// A bank of oriented Gabor functions, which training then changes
    Gabor,
    /// The same, which training leaves as it is
    GaborFrozen,
}

impl fmt::Display for Conv1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drawn => "drawn",
            Self::Gabor => "gabor",
            Self::GaborFrozen => "gabor-frozen",
        })
    }
}

/// The activation that weights were trained with, which no file of weights tells.
#[derive(Args, Clone, Copy, Default)]
pub struct ActivationArgs {
    /// In place of the network's own activations, in all of its layers: relu, leaky-relu (slope 0.01), leaky-relu:SLOPE or
    /// tanh [default: the network's own; eval and predict: those of the weights' run]
    #[arg(long, value_name = "ACTIVATION")]
    pub activation: Option<ActivationChoice>,
}

impl ActivationArgs {
    /// The network with that activation, else with the one of the run that its weights are of.
    pub fn apply(self, network: Network, of_run: Option<ActivationChoice>) -> Network {
        match self.activation.or(of_run) {
            Some(ActivationChoice(activation)) => network.with_activation(activation),
            None => network,
        }
    }
}

/// The network with those first filters.
pub fn with_conv1(network: Network, conv1: Conv1) -> Result<Network> {
    network.with_first_layer(match conv1 {
        Conv1::Drawn => FirstLayer::Drawn,
        Conv1::Gabor => FirstLayer::Gabor,
        Conv1::GaborFrozen => FirstLayer::GaborFrozen,
    })
}

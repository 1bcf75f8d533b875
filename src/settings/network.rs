//! The network, and changes to its definition.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ImageSize, bounds};
use crate::models::Model;
use crate::network::{FirstLayer, Network};
use crate::ops::Activation;
use crate::shape::Shape;

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Network")]
pub struct ModelSettings {
    /// Network, as listed by `cnn-cuda summary`
    #[arg(long, value_name = "NAME", default_value = "mnist-cnn")]
    pub model: Option<String>,
    /// Replace all activations of the network: relu, leaky-relu (slope 0.01), leaky-relu:SLOPE or tanh
    #[arg(long, value_name = "ACTIVATION")]
    pub activation: Option<ActivationChoice>,
}

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Network")]
pub struct VariationSettings {
    /// Probability of all dropout layers, 0 to disable them [default: the network's own]
    #[arg(long, value_name = "P", value_parser = bounds::below_one, allow_negative_numbers = true)]
    pub dropout: Option<f32>,
    /// Initial filters of the first convolution
    #[arg(long, value_enum, value_name = "FILTERS", default_value = "drawn")]
    pub conv1: Option<FirstLayer>,
}

/// Input shape and number of classes of a network that is built without a data set.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Network")]
pub struct InputSettings {
    /// Number of classes [default: the network's own]
    #[arg(long, value_name = "N", value_parser = bounds::classes, allow_negative_numbers = true)]
    pub classes: Option<usize>,
    /// Input channels, 1 for gray, 3 for colour [default: the network's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3), allow_negative_numbers = true)]
    pub channels: Option<u8>,
    /// Input size: N for N × N, or HEIGHTxWIDTH [default: the network's own]
    #[arg(long, value_name = "N")]
    pub image_size: Option<ImageSize>,
}

impl ModelSettings {
    /// Replaces the network's activations by the one given, else by the one recorded with the weights, if any.
    pub fn apply(&self, network: Network, recorded: Option<ActivationChoice>) -> Network {
        match self.activation.or(recorded) {
            Some(ActivationChoice(activation)) => network.with_activation(activation),
            None => network,
        }
    }
}

impl VariationSettings {
    /// # Errors
    /// `--conv1` does not fit the network's first layer.
    pub fn apply(&self, network: Network) -> Result<Network> {
        let network = network.with_first_layer(self.conv1.unwrap_or_default()).context("--conv1")?;
        Ok(match self.dropout {
            Some(probability) => network.with_dropout(probability),
            None => network,
        })
    }
}

impl InputSettings {
    /// Whether the flags give the whole shape.
    pub fn has_shape(&self) -> bool {
        self.image_size.is_some() && self.channels.is_some()
    }

    /// The shape given by the flags; `usual` applies to what they leave out.
    pub fn shape(&self, usual: Shape) -> Shape {
        let (height, width) = self.image_size.map_or((usual.height, usual.width), |size| (size.height, size.width));
        Shape { height, width, channels: self.channels.map_or(usual.channels, usize::from) }
    }
}

/// Builds a model for images of shape `input` and `classes` classes.
pub fn build_network(model: &Model, input: Shape, classes: usize) -> Result<Network> {
    (model.build)(input, classes).with_context(|| format!("{} cannot work on images of {input}", model.name))
}

/// `--activation`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ActivationChoice(Activation);

/// The default of PyTorch's `LeakyReLU`.
const DEFAULT_SLOPE: f32 = 0.01;

impl FromStr for ActivationChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let slope = |text: &str| text.parse::<f32>().ok().filter(|slope| *slope > 0.0 && *slope < 1.0);
        match text.split_once(':') {
            None if text == "relu" => Ok(Self(Activation::Relu)),
            None if text == "tanh" => Ok(Self(Activation::Tanh)),
            None if text == "leaky-relu" => Ok(Self(Activation::LeakyRelu { slope: DEFAULT_SLOPE })),
            Some(("leaky-relu", number)) => {
                let slope = slope(number).ok_or("leaky-relu:SLOPE takes a number above 0 and below 1")?;
                Ok(Self(Activation::LeakyRelu { slope }))
            }
            _ => Err("it must be relu, leaky-relu, leaky-relu:SLOPE or tanh".into()),
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

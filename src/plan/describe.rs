//! Steps in words.

use super::{StepKind, ValueId};
use crate::ops::{Activation, GradientEpilogue};

impl StepKind {
    /// What is computed, with all that is fused into it.
    pub fn describe(&self) -> String {
        let ended = |what: &str, activation: Activation, bias: bool| {
            let mut text = what.to_string();
            text += if bias { " + bias" } else { "" };
            match activation {
                Activation::Identity => text,
                other => format!("{text} + {other}"),
            }
        };
        let back = |what: &str, epilogue: &Option<GradientEpilogue<ValueId>>| match epilogue {
            Some(GradientEpilogue { activation, d_bias, .. }) => {
                ended(what, *activation, false) + if d_bias.is_some() { " + bias gradient" } else { "" }
            }
            None => what.to_string(),
        };
        match self {
            Self::Conv2dForward { activation, bias, pool, .. } => {
                let convolution = ended("convolution", *activation, bias.is_some());
                if pool.is_some() { convolution + " + max pooling" } else { convolution }
            }
            Self::LinearForward { activation, bias, .. } => ended("product", *activation, bias.is_some()),
            Self::Conv2dBackwardWeight { .. } | Self::LinearBackwardWeight { .. } => "weight gradient".into(),
            Self::Conv2dBackwardInput { epilogue, .. } | Self::LinearBackwardInput { epilogue, .. } => {
                back("input gradient", epilogue)
            }
            Self::BiasActivationBackward { activation, d_bias, .. } => match (activation, d_bias) {
                (Activation::Identity, _) => "bias gradient".into(),
                (activation, None) => format!("gradient of {activation}"),
                (activation, Some(_)) => format!("gradient of {activation} + bias gradient"),
            },
            Self::BatchNorm2dForward { activation, residual, .. } => {
                let added = if residual.is_some() { "batch norm + sum" } else { "batch norm" };
                ended(added, *activation, false)
            }
            Self::BatchNorm2dBackward { activation, .. } => ended("gradients of batch norm", *activation, false),
            Self::MaxPool2dForward { .. } => "max pooling".into(),
            Self::MaxPool2dBackward { epilogue, .. } => back("gradient of max pooling", epilogue),
            Self::AvgPool2dForward { .. } => "average pooling".into(),
            Self::AvgPool2dBackward { .. } => "gradient of average pooling".into(),
            Self::AdaptiveAvgPool2dForward { .. } => "adaptive average pooling".into(),
            Self::AdaptiveAvgPool2dBackward { .. } => "gradient of adaptive average pooling".into(),
            Self::LrnForward { .. } => "local response normalisation".into(),
            Self::LrnBackward { .. } => "gradient of local response normalisation".into(),
            Self::Dropout { .. } => "dropout".into(),
            Self::NextDropoutStep => "next step's masks".into(),
            Self::ActivationForward { op, .. } => op.to_string(),
            Self::ActivationBackward { op, .. } => format!("gradient of {op}"),
            Self::AddForward { .. } => "sum".into(),
            Self::Accumulate { .. } => "sum of gradients".into(),
            Self::Copy { .. } => "copy".into(),
            Self::CopyChannels { .. } => "copy of channels".into(),
            Self::SubsampleForward { .. } => "shortcut".into(),
            Self::SubsampleBackward { .. } => "gradient of the shortcut".into(),
        }
    }
}

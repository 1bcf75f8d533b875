//! Random augmentation of training images.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::transforms::TransformSettings;
use super::{bounds, usage};
use crate::ops::{Augmentation, Flip, Mixing, PaddingMode, Transforms};

/// As [`super::optimiser::NEWER`].
pub(super) const NEWER: &[&str] = &["crop-padding-mode"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Augmentation")]
pub struct AugmentationSettings {
    /// Random crop after padding by N pixels on each side
    #[arg(long, value_name = "N", value_parser = bounds::pixels, default_value = "0", allow_negative_numbers = true)]
    pub crop_padding: Option<u32>,
    /// Contents of that padding, as the padding_mode of torchvision's RandomCrop
    #[arg(long, value_enum, value_name = "MODE", default_value = "constant")]
    pub crop_padding_mode: Option<PaddingMode>,
    /// Horizontal flip: random, with probability 0.5 (if no mode is given), or alternating: random in the first epoch,
    /// and from then on in every epoch the images that were not flipped in the one before
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, default_missing_value = "random", default_value = "false", hide_default_value = true)]
    pub flip: Option<FlipChoice>,
    /// Cutout: blank a square of N × N pixels at a random position
    #[arg(long, value_name = "N", value_parser = bounds::pixels, default_value = "0", allow_negative_numbers = true)]
    pub cutout: Option<u32>,
    /// Random brightness: multiply each image's pixels by a factor in 1 ± X
    #[arg(long, value_name = "X", value_parser = bounds::zero_to_one, default_value = "0", allow_negative_numbers = true)]
    pub brightness: Option<f32>,
    /// Random contrast: multiply each image's deviation from its mean by a factor in 1 ± X
    #[arg(long, value_name = "X", value_parser = bounds::zero_to_one, default_value = "0", allow_negative_numbers = true)]
    pub contrast: Option<f32>,
    #[command(flatten)]
    #[serde(flatten)]
    pub transforms: TransformSettings,
    /// Mixup: mix each image and its label with another of the batch, with weights of the distribution Beta(A, A), as
    /// torchvision's MixUp
    #[arg(long, value_name = "A", value_parser = bounds::above_zero, allow_negative_numbers = true)]
    pub mixup: Option<f32>,
    /// Cutmix: replace a rectangle of each image by that of another of the batch, as torchvision's CutMix; its area is of
    /// the distribution Beta(A, A). With --mixup too, each batch has one of the two, chosen at random
    #[arg(long, value_name = "A", value_parser = bounds::above_zero, allow_negative_numbers = true)]
    pub cutmix: Option<f32>,
}

/// `--flip`. Files of earlier versions have `true` for `random`, and so has `config.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(into = "FlipValue", from = "FlipValue")]
pub enum FlipChoice {
    #[default]
    #[value(name = "false", hide = true)]
    Never,
    #[value(alias = "true")]
    Random,
    Alternating,
}

/// The value of `flip` in files.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum FlipValue {
    Switch(bool),
    Mode(FlipMode),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FlipMode {
    Random,
    Alternating,
}

impl From<FlipChoice> for FlipValue {
    fn from(choice: FlipChoice) -> Self {
        match choice {
            FlipChoice::Never => Self::Switch(false),
            FlipChoice::Random => Self::Switch(true),
            FlipChoice::Alternating => Self::Mode(FlipMode::Alternating),
        }
    }
}

impl From<FlipValue> for FlipChoice {
    fn from(value: FlipValue) -> Self {
        match value {
            FlipValue::Switch(false) => Self::Never,
            FlipValue::Switch(true) | FlipValue::Mode(FlipMode::Random) => Self::Random,
            FlipValue::Mode(FlipMode::Alternating) => Self::Alternating,
        }
    }
}

impl AugmentationSettings {
    pub fn resolve(&self) -> Augmentation {
        Augmentation {
            crop_padding: self.crop_padding.unwrap_or_default(),
            padding_mode: self.crop_padding_mode.unwrap_or_default(),
            flip: match self.flip.unwrap_or_default() {
                FlipChoice::Never => Flip::Never,
                FlipChoice::Random => Flip::Random,
                FlipChoice::Alternating => Flip::Alternating,
            },
            cutout: self.cutout.unwrap_or_default(),
            brightness: self.brightness.unwrap_or_default(),
            contrast: self.contrast.unwrap_or_default(),
        }
    }

    /// # Errors
    /// `--crop-padding-mode` without padding, and the errors of the transforms.
    pub fn check(&self, has_pictures: bool) -> Result<()> {
        let Augmentation { crop_padding, padding_mode, .. } = self.resolve();
        self.transforms.check(crop_padding, has_pictures)?;
        usage(crop_padding > 0 || padding_mode == PaddingMode::Constant, || {
            "--crop-padding-mode needs a --crop-padding above 0; leave it out, or add --no-crop-padding-mode".into()
        })
    }

    pub fn mixing(&self) -> Mixing {
        Mixing { mixup: self.mixup, cutmix: self.cutmix }
    }

    /// Whether no augmentation is enabled.
    pub fn is_none(&self) -> bool {
        let is_plain = self.resolve() == Augmentation::default() && self.transforms.resolve() == Transforms::default();
        is_plain && !self.mixing().is_on()
    }
}

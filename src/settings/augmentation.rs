//! Random augmentation of training images.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::bounds;
use super::transforms::TransformSettings;
use crate::ops::{Augmentation, Transforms};

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Augmentation")]
pub struct AugmentationSettings {
    /// Random crop after padding by N black pixels
    #[arg(long, value_name = "N", value_parser = bounds::pixels, default_value = "0", allow_negative_numbers = true)]
    pub crop_padding: Option<u32>,
    /// Random horizontal flip, with probability 0.5
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub flip: Option<bool>,
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
}

impl AugmentationSettings {
    pub fn resolve(&self) -> Augmentation {
        Augmentation {
            crop_padding: self.crop_padding.unwrap_or_default(),
            flip: self.flip.unwrap_or_default(),
            cutout: self.cutout.unwrap_or_default(),
            brightness: self.brightness.unwrap_or_default(),
            contrast: self.contrast.unwrap_or_default(),
        }
    }

    /// Whether no augmentation is enabled.
    pub fn is_none(&self) -> bool {
        self.resolve() == Augmentation::default() && self.transforms.resolve() == Transforms::default()
    }
}

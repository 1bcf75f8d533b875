//! The flags that change training images at random, and what a run keeps of them.

use anyhow::{Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::flags;
use crate::ops::Augmentation;

/// More of a border or a square than any picture has.
const MOST_PIXELS: u32 = 4096;

#[derive(Args, Clone)]
pub struct AugmentationArgs {
    /// Cut training images out of themselves with a black border of N pixels, at random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MOST_PIXELS)), allow_negative_numbers = true)]
    crop_padding: Option<u32>,
    /// Mirror half of the training images left to right
    #[arg(long)]
    flip: bool,
    /// Blank a square of N pixels anywhere in every training image
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MOST_PIXELS)), allow_negative_numbers = true)]
    cutout: Option<u32>,
    /// Multiply each training image's pixels by one factor in 1 ± X
    #[arg(long, value_name = "X", value_parser = flags::share, allow_negative_numbers = true)]
    brightness: Option<f32>,
    /// And their difference from the mean by another
    #[arg(long, value_name = "X", value_parser = flags::share, allow_negative_numbers = true)]
    contrast: Option<f32>,
}

/// [`Augmentation`] in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AugmentationConfig {
    crop_padding: u32,
    flip: bool,
    cutout: u32,
    brightness: f32,
    contrast: f32,
}

impl AugmentationArgs {
    /// The flags, where they are given, over what is there.
    pub fn over(&self, otherwise: &AugmentationConfig) -> AugmentationConfig {
        AugmentationConfig {
            crop_padding: self.crop_padding.unwrap_or(otherwise.crop_padding),
            flip: self.flip || otherwise.flip,
            cutout: self.cutout.unwrap_or(otherwise.cutout),
            brightness: self.brightness.unwrap_or(otherwise.brightness),
            contrast: self.contrast.unwrap_or(otherwise.contrast),
        }
    }
}

impl AugmentationConfig {
    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What the flags' parsers check, for values that come from a file.
    pub fn check(&self) -> Result<()> {
        let Self { crop_padding, cutout, brightness, contrast, .. } = *self;
        ensure!(crop_padding <= MOST_PIXELS && cutout <= MOST_PIXELS, "crop-padding or cutout is above {MOST_PIXELS}");
        let share = |value: f32| (0.0..=1.0).contains(&value);
        ensure!(share(brightness) && share(contrast), "brightness or contrast is not between 0 and 1");
        Ok(())
    }

    pub fn augmentation(&self) -> Augmentation {
        let Self { crop_padding, flip, cutout, brightness, contrast } = *self;
        Augmentation { crop_padding, flip, cutout, brightness, contrast }
    }
}

//! Random transforms of training images that torchvision defines.

use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ImageSize, bounds, usage};
use crate::data::TrainPictures;
use crate::ops::{RandAugment, ResizedCrop, Transforms};

/// The sides of stored pictures, of which crops are drawn, are those of the input divided by this.
const STORED: f64 = 0.875;

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Augmentation")]
pub struct TransformSettings {
    /// Random area of each training image, resized to the image size, as torchvision's RandomResizedCrop
    #[arg(long, num_args = 0, default_missing_value = "true")]
    random_resized_crop: Option<bool>,
    /// Smallest and largest part of the area for --random-resized-crop [default: 0.08,1]
    #[arg(long, value_name = "MIN,MAX", allow_negative_numbers = true)]
    crop_scale: Option<Scale>,
    /// Smallest and largest width divided by height for --random-resized-crop [default: 3/4,4/3]
    #[arg(long, value_name = "MIN,MAX", allow_negative_numbers = true)]
    crop_ratio: Option<Ratio>,
    /// Size of a folder's training pictures before --random-resized-crop, to which they are scaled and cropped once [default:
    /// the image size divided by 0.875]
    #[arg(long, value_name = "N")]
    resize: Option<ImageSize>,
    /// Random operations on each training image, N one after the other of magnitude M (0 to 30), as torchvision's RandAugment
    #[arg(long, value_name = "N,M", allow_negative_numbers = true)]
    rand_augment: Option<RandAugmentChoice>,
    /// Random brightness, contrast, saturation and hue, in a random order, as torchvision's ColorJitter
    #[arg(long, value_name = "B,C,S,H", allow_negative_numbers = true)]
    color_jitter: Option<Jitter>,
    /// Probability of setting a random rectangle to the mean, as torchvision's RandomErasing
    #[arg(long, value_name = "P", value_parser = bounds::zero_to_one, allow_negative_numbers = true)]
    random_erasing: Option<f32>,
}

impl TransformSettings {
    pub fn resolve(&self) -> Transforms {
        let pair = |pair: Option<[f64; 2]>, usual| pair.unwrap_or(usual);
        let crop = ResizedCrop {
            scale: pair(self.crop_scale.map(Into::into), [0.08, 1.0]),
            ratio: pair(self.crop_ratio.map(Into::into), [3.0 / 4.0, 4.0 / 3.0]),
        };
        Transforms {
            resized_crop: self.is_resized().then_some(crop),
            rand_augment: self
                .rand_augment
                .map(|RandAugmentChoice([count, magnitude])| RandAugment { count: count as usize, magnitude }),
            color_jitter: self.color_jitter.map_or([0.0; 4], Into::into),
            erasing: self.random_erasing.unwrap_or_default().into(),
        }
    }

    fn is_resized(&self) -> bool {
        self.random_resized_crop.unwrap_or_default()
    }

    /// How a folder's training pictures are scaled.
    pub fn train_pictures(&self) -> TrainPictures {
        match self.resize {
            Some(size) => TrainPictures::Sized(size.height, size.width),
            None if self.is_resized() => TrainPictures::Larger(STORED),
            None => TrainPictures::Whole,
        }
    }

    /// # Errors
    /// Settings without effect, or that contradict padding of `padding` pixels or the data set.
    pub fn check(&self, padding: u32, has_pictures: bool) -> Result<()> {
        let unused = [
            ("--crop-scale", self.crop_scale.is_some()),
            ("--crop-ratio", self.crop_ratio.is_some()),
            ("--resize", self.resize.is_some()),
        ];
        for (flag, given) in unused {
            usage(!given || self.is_resized(), || format!("{flag} has no effect without --random-resized-crop"))?;
        }
        usage(!self.is_resized() || padding == 0, || {
            "--crop-padding and --random-resized-crop are two random crops; use one of them".into()
        })?;
        usage(self.resize.is_none() || has_pictures, || {
            "--resize is for folders of pictures; the images of other data sets are cropped as they are".into()
        })
    }
}

/// Parses `COUNT` numbers separated by commas.
fn numbers<const COUNT: usize>(text: &str) -> Option<[f64; COUNT]> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    numbers?.try_into().ok()
}

/// Defines the type of a setting with several numbers, which is an array in files.
macro_rules! list {
    ($(#[$about:meta])* $name:ident, $count:literal, $is_valid:expr, $must:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name([f64; $count]);

        impl From<$name> for [f64; $count] {
            fn from(list: $name) -> Self {
                list.0
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let is_valid: fn(&[f64; $count]) -> bool = $is_valid;
                numbers(text).filter(is_valid).map(Self).ok_or_else(|| concat!("it must be ", $must).into())
            }
        }
    };
}

list!(
    /// `--crop-scale`
    Scale, 2, |[least, most]| *least > 0.0 && least <= most && *most <= 1.0,
    "two numbers above 0 and at most 1, the smaller first, such as 0.08,1"
);
list!(
    /// `--crop-ratio`
    Ratio, 2, |[least, most]| *least > 0.0 && least <= most && most.is_finite(),
    "two numbers above 0, the smaller first, such as 0.75,1.3333"
);
list!(
    /// `--color-jitter`
    Jitter, 4, |[b, c, s, hue]| [b, c, s].iter().all(|it| **it >= 0.0 && it.is_finite()) && (0.0..=0.5).contains(hue),
    "four numbers of at least 0, of which the last, for the hue, is at most 0.5, such as 0.4,0.4,0.4,0.1"
);

/// `--rand-augment`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RandAugmentChoice([u32; 2]);

impl FromStr for RandAugmentChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str, most| text.trim().parse::<u32>().ok().filter(|number| *number <= most);
        let both = text.split_once(',');
        let both = both.and_then(|(count, magnitude)| Some([number(count, 8)?, number(magnitude, RandAugment::MOST)?]));
        let must = "it must be a number of operations from 1 to 8 and a magnitude from 0 to 30, such as 2,9";
        both.filter(|[count, _]| *count > 0).map(Self).ok_or_else(|| must.into())
    }
}

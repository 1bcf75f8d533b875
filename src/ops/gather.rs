//! Gathers a batch from the u8 data set in the epoch's order, normalises it and, in training, augments it.

use std::ops::Range;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::operands::operator;
use crate::rng::{self, Purpose};
use crate::shape::Shape;

/// Training or test set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subset {
    Train,
    Test,
}

/// `(x / 255 − mean) / std` per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalise {
    pub shape: Shape,
    /// `[channels]`
    pub mean: Vec<f32>,
    /// `[channels]`
    pub std: Vec<f32>,
}

impl Normalise {
    /// The network's input for images `[n][height][width][channels]`.
    pub fn apply(&self, images: &[u8]) -> Vec<f32> {
        let channels = self.mean.iter().zip(&self.std).cycle();
        images.iter().zip(channels).map(|(&byte, (mean, std))| (f32::from(byte) / 255.0 - mean) / std).collect()
    }

    /// The pixels of normalised values: the inverse, rounded, and clamped to black and white.
    pub fn pixels(&self, values: &[f32]) -> Vec<u8> {
        let channels = self.mean.iter().zip(&self.std).cycle();
        values.iter().zip(channels).map(|(value, (mean, std))| (255.0 * (value * std + mean)).round() as u8).collect()
    }
}

/// Random augmentation of training images, in this order: crop with padding, horizontal flip, brightness, contrast,
/// and, after normalisation, cutout. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augmentation {
    /// Pixels of padding on each side before a random crop to the original size (`torchvision.transforms.RandomCrop`
    /// with padding).
    pub crop_padding: u32,
    pub padding_mode: PaddingMode,
    pub flip: Flip,
    /// Side of a square, centred on a random pixel and clipped to the image, that is set to 0, the mean (DeVries and
    /// Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017).
    pub cutout: u32,
    /// Multiply an image's pixels by a random factor in 1 ± brightness, clamped to white.
    pub brightness: f32,
    /// Multiply an image's deviation from the mean by a random factor in 1 ± contrast.
    pub contrast: f32,
}

/// What the padding of a crop contains: the `padding_mode` of `torchvision.transforms.RandomCrop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaddingMode {
    /// Black pixels
    #[default]
    Constant,
    /// The image mirrored at its outermost pixels, which are not repeated
    Reflect,
}

impl PaddingMode {
    /// The row or column of the image at `at`, which may be in the padding.
    pub fn inside(self, at: i64, side: usize) -> Option<usize> {
        let at = match self {
            Self::Constant => at,
            Self::Reflect if at < 0 => -at,
            Self::Reflect => at.min(2 * (side as i64 - 1) - at),
        };
        usize::try_from(at).ok().filter(|&at| at < side)
    }
}

/// Which images are flipped horizontally. `kernels/gather.cu` has the same numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flip {
    #[default]
    Never,
    /// Each with probability ½ (`torchvision.transforms.RandomHorizontalFlip`).
    Random,
    /// In the first epoch, counted from 0, each with probability ½; then those in even and the others in odd epochs
    /// (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
    Alternating,
}

/// The augmentation drawn for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct AugmentationDraw {
    /// Row and column of the image at which the crop starts; negative in the padding.
    pub top: i64,
    pub left: i64,
    pub padding_mode: PaddingMode,
    pub flip: bool,
    /// Rows and columns of the cutout square.
    pub cutout: [Range<u32>; 2],
    pub brightness: f32,
    pub contrast: f32,
}

impl Augmentation {
    /// # Errors
    /// The padding is too wide for images of this shape.
    pub fn check(&self, shape: Shape) -> Result<()> {
        let side = shape.height.min(shape.width);
        ensure!(
            self.padding_mode == PaddingMode::Constant || (self.crop_padding as usize) < side,
            "--crop-padding-mode reflect mirrors the image, so --crop-padding must be below its side of {side} pixels, \
             but is {}",
            self.crop_padding
        );
        Ok(())
    }

    /// What remains to be done with images that are cropped and flipped.
    pub fn after_crop(self) -> Self {
        Self { crop_padding: 0, padding_mode: PaddingMode::Constant, flip: Flip::Never, ..self }
    }

    /// The augmentation of an image at `position` of the epoch's order. It depends only on seed, epoch, position and, if
    /// flips alternate, on the image's index in the set.
    pub fn draw(&self, shape: Shape, seed: u64, epoch: u32, position: u64, image: u32) -> AugmentationDraw {
        let half = |half| rng::draw(seed, Purpose::Augmentation, epoch, 2 * position + half);
        let ([top, left, flip, row], [column, brightness, contrast, _]) = (half(0), half(1));
        let offset = |word| i64::from(below(word, 2 * self.crop_padding + 1)) - i64::from(self.crop_padding);
        let square = |word, side: usize| {
            let begin = i64::from(below(word, side as u32)) - i64::from(self.cutout / 2);
            let inside = |at: i64| at.clamp(0, side as i64) as u32;
            inside(begin)..inside(begin + i64::from(self.cutout))
        };
        AugmentationDraw {
            top: offset(top),
            left: offset(left),
            padding_mode: self.padding_mode,
            flip: match self.flip {
                Flip::Never => false,
                Flip::Random => flip >> 31 == 1,
                Flip::Alternating => {
                    let [word, ..] = rng::draw(seed, Purpose::Flip, 0, image.into());
                    (word >> 31 == 1) != (epoch % 2 == 1)
                }
            },
            cutout: [square(row, shape.height), square(column, shape.width)],
            brightness: jitter_factor(brightness, self.brightness),
            contrast: jitter_factor(contrast, self.contrast),
        }
    }
}

/// A number in `0..bound`, uniform up to a bias of 2⁻³².
fn below(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

/// Uniform in 1 ± `spread`, with one rounding.
fn jitter_factor(word: u32, spread: f32) -> f32 {
    let signed = (word >> 8) as f32 * (1.0 / (1 << 23) as f32) - 1.0; // exact
    signed.mul_add(spread, 1.0)
}

impl AugmentationDraw {
    /// Row and column at which the crop starts, and whether it is flipped.
    pub fn origin(&self) -> (i64, i64, bool) {
        (self.top, self.left, self.flip)
    }

    /// The index of the source pixel for an output pixel; `None` in the padding.
    pub fn source(&self, shape: Shape, row: usize, column: usize) -> Option<usize> {
        let column = if self.flip { shape.width - 1 - column } else { column };
        let row = self.padding_mode.inside(row as i64 + self.top, shape.height)?;
        Some(row * shape.width + self.padding_mode.inside(column as i64 + self.left, shape.width)?)
    }

    /// Whether an output pixel lies in the cutout square.
    pub fn is_cut_out(&self, row: usize, column: usize) -> bool {
        self.cutout[0].contains(&(row as u32)) && self.cutout[1].contains(&(column as u32))
    }

    /// A pixel's normalised value, with brightness and contrast applied.
    #[inline]
    pub fn normalised(&self, byte: u8, mean: f32, std: f32) -> f32 {
        ((f32::from(byte) / 255.0 * self.brightness).min(1.0) - mean) / std * self.contrast
    }
}

/// One view of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// Whether it is mirrored horizontally, after the shift.
    pub flip: bool,
    /// Row and column at which it begins, with the image's reflection around it.
    pub shift: i32,
    /// Whether the next gather reads the same images again.
    pub repeats: bool,
}

impl View {
    /// The same as the augmentation of an image; `None` for the image as it is.
    pub fn draw(self) -> Option<AugmentationDraw> {
        let Self { flip, shift, .. } = self;
        (flip || shift != 0).then(|| AugmentationDraw {
            top: shift.into(),
            left: shift.into(),
            padding_mode: PaddingMode::Reflect,
            flip,
            cutout: [0..0, 0..0],
            brightness: 1.0,
            contrast: 1.0,
        })
    }
}

operator! {
    /// Writes the next images of the order, normalised, to `output`, stores their labels for the loss, and advances the
    /// position unless the view repeats.
    pub struct Gather {
        value subset: Subset,
        /// The shape of one image.
        value shape: Shape,
        value augmentation: Option<Augmentation>,
        /// What is seen of images without augmentation.
        value view: View,
        /// `[batch][height][width][channels]`
        writes output: B,
    }
    describe(self) { "batch, normalised, with labels".into() }
    flops(self, len) { 3 * len(self.output) }
    // For every value, one byte is read.
    elements(self, len) { len(self.output) + len(self.output) / 4 }
}

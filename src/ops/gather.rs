//! A batch from the resident u8 data set, in the epoch's order, normalised and, in training, changed at random on the way.

use std::ops::Range;

use super::operands::operator;
use crate::rng::{self, Purpose};
use crate::shape::Shape;

/// Which of the resident sets.
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

/// Random changes to training images, in this order: a crop of the image with a border, a flip, its light, and, behind the
/// normalisation, a square that is blanked. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augmentation {
    /// Black pixels around the image, of which a part of its own size is then cut anywhere
    /// (`torchvision.transforms.RandomCrop` with padding).
    pub crop_padding: u32,
    /// Half of the images are mirrored left to right.
    pub flip: bool,
    /// Side of a square around any pixel that becomes 0, the mean, as far as it lies in the image (DeVries and Taylor,
    /// "Improved Regularization of Convolutional Neural Networks with Cutout", 2017).
    pub cutout: u32,
    /// Pixels are multiplied by one factor in 1 ± brightness, and stay at most white.
    pub brightness: f32,
    /// What the mean leaves of them by another in 1 ± contrast.
    pub contrast: f32,
}

/// What was drawn for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Where the crop begins in the image itself; below 0 in its border.
    pub top: i64,
    pub left: i64,
    pub flip: bool,
    /// Rows and columns of the blanked square.
    pub blank: [Range<u32>; 2],
    pub brightness: f32,
    pub contrast: f32,
}

impl Augmentation {
    /// The changes to the image at `position` of an epoch's order: they depend on nothing else but the seed.
    pub fn draw(&self, shape: Shape, seed: u64, epoch: u32, position: u64) -> Drawn {
        let half = |half| rng::draw(seed, Purpose::Augmentation, epoch, 2 * position + half);
        let ([top, left, flip, row], [column, brightness, contrast, _]) = (half(0), half(1));
        let offset = |word| i64::from(below(word, 2 * self.crop_padding + 1)) - i64::from(self.crop_padding);
        let square = |word, side: usize| {
            let begin = i64::from(below(word, side as u32)) - i64::from(self.cutout / 2);
            let inside = |at: i64| at.clamp(0, side as i64) as u32;
            inside(begin)..inside(begin + i64::from(self.cutout))
        };
        Drawn {
            top: offset(top),
            left: offset(left),
            flip: self.flip && flip >> 31 == 1,
            blank: [square(row, shape.height), square(column, shape.width)],
            brightness: around_one(brightness, self.brightness),
            contrast: around_one(contrast, self.contrast),
        }
    }
}

/// One of `bound` numbers, each as likely as the next but for 2⁻³² of them.
fn below(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

/// Uniform in 1 ± `spread`, with one rounding.
fn around_one(word: u32, spread: f32) -> f32 {
    let signed = (word >> 8) as f32 * (1.0 / (1 << 23) as f32) - 1.0; // exact
    signed.mul_add(spread, 1.0)
}

impl Drawn {
    /// The image's pixel that comes to a place of the result; none is the border.
    pub fn source(&self, shape: Shape, row: usize, column: usize) -> Option<usize> {
        let column = if self.flip { shape.width - 1 - column } else { column };
        let (row, column) = (row as i64 + self.top, column as i64 + self.left);
        let inside = (0..shape.height as i64).contains(&row) && (0..shape.width as i64).contains(&column);
        inside.then(|| row as usize * shape.width + column as usize)
    }

    /// Whether that place is blanked.
    pub fn blanks(&self, row: usize, column: usize) -> bool {
        self.blank[0].contains(&(row as u32)) && self.blank[1].contains(&(column as u32))
    }

    /// A pixel's number for the network.
    #[inline]
    pub fn normalised(&self, byte: u8, mean: f32, std: f32) -> f32 {
        ((f32::from(byte) / 255.0 * self.brightness).min(1.0) - mean) / std * self.contrast
    }
}

operator! {
    /// Writes the next images of the order, normalised, to `output`, keeps their labels for the loss, and moves the position
    /// on.
    pub struct Gather {
        value subset: Subset,
        /// Of one image.
        value shape: Shape,
        /// Random changes to the images.
        value augmentation: Option<Augmentation>,
        /// `[batch][height][width][channels]`
        writes output: B,
    }
    describe(self) { "batch, normalised, with labels".into() }
    flops(self, len) { 3 * len(self.output) }
    // A byte is read for every value.
    elements(self, len) { len(self.output) + len(self.output) / 4 }
}

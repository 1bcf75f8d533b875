//! Random transforms of training pictures: `RandomResizedCrop`, `RandAugment`, `ColorJitter` and `RandomErasing` of
//! torchvision.transforms.
//!
//! What is drawn for the pictures of an epoch depends only on seed, epoch and position. It is computed before the epoch's
//! first step, once for all backends.

use std::ops::Range;

use rayon::prelude::*;

use super::gather::{Augmentation, AugmentationDraw, Gather, PaddingMode, Subset, View};
use super::operands::operator;
use crate::resample::taps;
use crate::rng::{Philox, Purpose};
use crate::shape::Shape;

/// A random area of the picture, which is resized to the input of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizedCrop {
    /// The smallest and the largest part of the picture's area.
    pub scale: [f64; 2],
    /// The smallest and the largest width divided by height.
    pub ratio: [f64; 2],
}

/// Random operations on the pixels, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandAugment {
    /// The number of operations on a picture.
    pub count: usize,
    /// Their strength, from 0 to [`RandAugment::MOST`].
    pub magnitude: u32,
}

/// The transforms of training pictures, in the order of the fields, except that pictures are mirrored after the crop. The default
/// changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Transforms {
    pub resized_crop: Option<ResizedCrop>,
    pub rand_augment: Option<RandAugment>,
    /// The jitter of brightness, contrast, saturation and hue.
    pub color_jitter: [f64; 4],
    /// The probability that a rectangle of a normalised picture is set to 0.
    pub erasing: f64,
}

/// One operation on the bytes of a picture, as Pillow computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PixelOp {
    Identity,
    /// The affine map [`Draws::matrices`] with this index, to the nearest pixel; black outside.
    Affine(u32),
    /// 0 is black, 1 the picture.
    Brightness(f32),
    /// 0 is the mean of the gray levels, 1 the picture.
    Contrast(f32),
    /// 0 is gray, 1 the picture.
    Saturation(f32),
    /// 0 is a smoothed picture, 1 the picture.
    Sharpness(f32),
    /// Added to the hue, of which 256 are the whole circle.
    Hue(u8),
    /// The number of bits that are kept.
    Posterize(u8),
    /// Inverts this level and those above it.
    Solarize(u32),
    /// Stretches the levels of each channel to 0 … 255.
    AutoContrast,
    /// Makes the levels of each channel equally frequent.
    Equalize,
}

impl PixelOp {
    /// Its number and its argument, as `kernels/augment.cu` reads them.
    pub fn words(self) -> [u32; 2] {
        match self {
            Self::Identity => [0, 0],
            Self::Affine(index) => [1, index],
            Self::Brightness(factor) => [2, factor.to_bits()],
            Self::Contrast(factor) => [3, factor.to_bits()],
            Self::Saturation(factor) => [4, factor.to_bits()],
            Self::Sharpness(factor) => [5, factor.to_bits()],
            Self::Hue(shift) => [6, shift.into()],
            Self::Posterize(bits) => [7, bits.into()],
            Self::Solarize(first) => [8, first],
            Self::AutoContrast => [9, 0],
            Self::Equalize => [10, 0],
        }
    }
}

/// What is drawn for one picture, besides its operations.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureDraw {
    /// The top left corner of the crop, which is negative in the padding, and its height and width.
    pub top: i64,
    pub left: i64,
    pub height: usize,
    pub width: usize,
    pub mirrored: bool,
    /// Rows and columns that are erased.
    pub erased: [Range<usize>; 2],
}

/// What is drawn for the pictures of an epoch, by position in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draws {
    pub pictures: Vec<PictureDraw>,
    /// The same number for every picture.
    pub ops: Vec<PixelOp>,
    /// Affine maps from an output pixel to its source, as `[a, b, c, d, e, f]` in 1/65536: column `a · x + b · y + c` and
    /// row `d · x + e · y + f`.
    pub matrices: Vec<[i32; 6]>,
}

impl Draws {
    /// The operations on the picture at a position.
    pub fn ops_of(&self, position: usize) -> &[PixelOp] {
        let count = self.ops.len() / self.pictures.len().max(1);
        &self.ops[position * count..][..count]
    }
}

impl RandAugment {
    pub const MOST: u32 = 30;
    /// The operations, of which each is drawn with the same probability, and whether half of them are negative.
    pub const OPS: [(&str, bool); 14] = [
        ("Identity", false),
        ("ShearX", true),
        ("ShearY", true),
        ("TranslateX", true),
        ("TranslateY", true),
        ("Rotate", true),
        ("Brightness", true),
        ("Color", true),
        ("Contrast", true),
        ("Sharpness", true),
        ("Posterize", false),
        ("Solarize", false),
        ("AutoContrast", false),
        ("Equalize", false),
    ];
    /// The index of `ShearX` in [`Self::OPS`], and the number of affine operations from there on.
    const AFFINE: Range<usize> = 1..6;

    /// The value of `torch.linspace(first, last, 31)` at the magnitude.
    fn value(self, first: f32, last: f32) -> f64 {
        let (step, at) = ((last - first) / Self::MOST as f32, self.magnitude as f32);
        let above = self.magnitude >= Self::MOST / 2;
        f64::from(if above { last - step * (Self::MOST as f32 - at) } else { first + step * at })
    }

    /// An operation of [`Self::OPS`], by its index.
    pub fn op(self, index: usize, negative: bool) -> PixelOp {
        let factor = || {
            let change = self.value(0.0, 0.9);
            (1.0 + if negative { -change } else { change }) as f32
        };
        match Self::OPS[index].0 {
            "Identity" => PixelOp::Identity,
            "Brightness" => PixelOp::Brightness(factor()),
            "Color" => PixelOp::Saturation(factor()),
            "Contrast" => PixelOp::Contrast(factor()),
            "Sharpness" => PixelOp::Sharpness(factor()),
            "Posterize" => PixelOp::Posterize(8 - (f64::from(self.magnitude) / 7.5).round() as u8),
            "Solarize" => PixelOp::Solarize(self.value(255.0, 0.0).ceil() as u32),
            "AutoContrast" => PixelOp::AutoContrast,
            "Equalize" => PixelOp::Equalize,
            _ => PixelOp::Affine(2 * (index - Self::AFFINE.start) as u32 + u32::from(negative)),
        }
    }

    /// The affine maps of its operations on pictures of a shape: each positive, then negative.
    pub fn matrices(self, shape: Shape) -> Vec<[i32; 6]> {
        let signs = |index| [1.0, -1.0].map(|sign| fixed(self.matrix(index, sign, shape)));
        Self::AFFINE.flat_map(signs).collect()
    }

    fn matrix(self, index: usize, sign: f64, Shape { height, width, .. }: Shape) -> [f64; 6] {
        let (height, width) = (height as f64, width as f64);
        let shear = sign * self.value(0.0, 0.3);
        let translation = |side: f64| -(sign * self.value(0.0, (150.0 / 331.0 * side) as f32)).trunc();
        match Self::OPS[index].0 {
            "ShearX" => [1.0, shear, 0.0, 0.0, 1.0, 0.0],
            "ShearY" => [1.0, 0.0, 0.0, shear, 1.0, 0.0],
            "TranslateX" => [1.0, 0.0, translation(width), 0.0, 1.0, 0.0],
            "TranslateY" => [1.0, 0.0, 0.0, 0.0, 1.0, translation(height)],
            _ => {
                // Around the centre, as `PIL.Image.rotate`.
                let angle = -(sign * self.value(0.0, 30.0)).to_radians();
                let (cos, sin, x, y) = (angle.cos(), angle.sin(), width / 2.0, height / 2.0);
                [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]
            }
        }
    }
}

/// A matrix in 1/65536, which maps the centre of a pixel instead of its corner.
fn fixed([a, b, c, d, e, f]: [f64; 6]) -> [i32; 6] {
    let centred = [a, b, c + 0.5 * a + 0.5 * b, d, e, f + 0.5 * d + 0.5 * e];
    centred.map(|value| (value * 65536.0 + 0.5).floor() as i32)
}

impl ResizedCrop {
    /// Top, left, height and width of a random area: ten attempts, then the centre.
    fn draw(&self, stored: Shape, random: &mut Philox) -> [usize; 4] {
        let Shape { height, width, .. } = stored;
        for _ in 0..10 {
            let [h, w] = rectangle(stored, self.scale, self.ratio.map(|ratio| 1.0 / ratio), random);
            if (1..=height).contains(&h) && (1..=width).contains(&w) {
                return [below(random, height - h + 1), below(random, width - w + 1), h, w];
            }
        }
        let (ratio, [least, most]) = (width as f64 / height as f64, self.ratio);
        // torchvision fails for a side that is rounded to 0.
        let rounded = |side: f64| (side.round_ties_even() as usize).max(1);
        let [h, w] = match ratio {
            ratio if ratio < least => [rounded(width as f64 / least), width],
            ratio if ratio > most => [height, rounded(height as f64 * most)],
            _ => [height, width],
        };
        [(height - h) / 2, (width - w) / 2, h, w]
    }
}

/// Height and width of a rectangle with a random part of the area, and a random height divided by width.
fn rectangle(shape: Shape, scale: [f64; 2], ratio: [f64; 2], random: &mut Philox) -> [usize; 2] {
    let area = shape.pixels() as f64 * uniform(random, scale);
    let ratio = uniform(random, ratio.map(f64::ln)).exp();
    [(area * ratio).sqrt(), (area / ratio).sqrt()].map(|side| side.round_ties_even() as usize)
}

fn uniform(random: &mut Philox, [low, high]: [f64; 2]) -> f64 {
    low + (high - low) * (f64::from(random.next_u32()) / 4_294_967_296.0)
}

fn below(random: &mut Philox, bound: usize) -> usize {
    random.below(bound as u32) as usize
}

impl Transforms {
    /// Groups of four words that the random numbers of a picture may take.
    const GROUPS: u64 = 256;

    /// What a step does on pictures of the shape `stored`, which may be padded; `None` if there are no transforms.
    pub fn stage(&self, stored: Shape, padding_mode: PaddingMode) -> Option<Stage> {
        let jitters = self.color_jitter.iter().filter(|&&spread| spread > 0.0).count();
        let op_count = self.rand_augment.map_or(0, |it| it.count) + jitters;
        let (resizes, erases) = (self.resized_crop.is_some(), self.erasing > 0.0);
        let stage = Stage { stored, padding_mode, resizes, op_count, erases };
        (stage.is_staged() || stage.erases).then_some(stage)
    }

    /// Draws for the first `count` positions of an epoch, of pictures of the shape `stored`, of which the network takes
    /// `shape`. `crop` draws the crop and the mirroring of pictures at a position.
    pub fn draw(
        &self,
        [stored, shape]: [Shape; 2],
        seed: u64,
        epoch: u32,
        count: usize,
        crop: impl Fn(usize) -> AugmentationDraw + Sync,
    ) -> Draws {
        let one = |position: usize| {
            let start = position as u64 * Self::GROUPS;
            let mut random = Philox::new(seed, Purpose::Transforms, epoch).starting_at(start);
            let (top, left, mirrored) = crop(position).origin();
            let area = self.resized_crop.map(|crop| crop.draw(stored, &mut random));
            let (top, left, height, width) = match area {
                Some([top, left, height, width]) => (top as i64, left as i64, height, width),
                None => (top, left, shape.height, shape.width),
            };
            let mut ops = Vec::new();
            if let Some(augment) = self.rand_augment {
                let mut op = || augment.op(below(&mut random, RandAugment::OPS.len()), random.next_u32() >> 31 == 1);
                ops.extend((0..augment.count).map(|_| op()));
            }
            ops.extend(self.draw_jitter(&mut random));
            let erased = self.draw_erased(shape, &mut random);
            (PictureDraw { top, left, height, width, mirrored, erased }, ops)
        };
        let (pictures, ops): (Vec<PictureDraw>, Vec<Vec<PixelOp>>) = (0..count).into_par_iter().map(one).unzip();
        let matrices = self.rand_augment.map_or_else(Vec::new, |augment| augment.matrices(shape));
        Draws { pictures, ops: ops.into_iter().flatten().collect(), matrices }
    }

    /// The operations of the colour jitter in a random order.
    fn draw_jitter(&self, random: &mut Philox) -> Vec<PixelOp> {
        let mut ops = Vec::new();
        for (index, spread) in self.color_jitter.into_iter().enumerate().filter(|(_, spread)| *spread > 0.0) {
            let factor = if index < 3 { [(1.0 - spread).max(0.0), 1.0 + spread] } else { [-spread, spread] };
            let factor = uniform(random, factor);
            ops.push(match index {
                0 => PixelOp::Brightness(factor as f32),
                1 => PixelOp::Contrast(factor as f32),
                2 => PixelOp::Saturation(factor as f32),
                _ => PixelOp::Hue((factor * 255.0) as i32 as u8),
            });
        }
        for last in (1..ops.len()).rev() {
            ops.swap(last, below(random, last + 1));
        }
        ops
    }

    /// Rows and columns to erase, with the default scale and ratio of torchvision; both are empty if nothing is erased.
    fn draw_erased(&self, shape: Shape, random: &mut Philox) -> [Range<usize>; 2] {
        let Shape { height, width, .. } = shape;
        let erases = self.erasing > 0.0 && uniform(random, [0.0, 1.0]) < self.erasing;
        for _ in 0..if erases { 10 } else { 0 } {
            let [h, w] = rectangle(shape, [0.02, 0.33], [0.3, 3.3], random);
            if h < height && w < width {
                let (top, left) = (below(random, height - h + 1), below(random, width - w + 1));
                return [top..top + h, left..left + w];
            }
        }
        [0..0, 0..0]
    }
}

/// What a step does with the pictures; what is drawn for them is not part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// The shape of the set's pictures.
    pub stored: Shape,
    pub padding_mode: PaddingMode,
    /// Whether the crop is resized to the input of the network.
    pub resizes: bool,
    /// The number of operations on each picture.
    pub op_count: usize,
    pub erases: bool,
}

impl Stage {
    /// Whether pictures are transformed as bytes.
    pub fn is_staged(&self) -> bool {
        self.resizes || self.op_count > 0
    }

    /// The bytes that a transformed picture of `shape` and intermediate values take: the picture; another one of its shape,
    /// or a crop of which only the columns were resized; and the weights of each axis.
    pub fn bytes(&self, shape: Shape) -> [usize; 4] {
        let Shape { height, width, channels } = shape;
        if !self.is_staged() {
            return [0; 4];
        }
        let axis = |from, to| if self.resizes { 4 * to * (taps(from, to) + 2) } else { 0 };
        let other = if self.resizes { height.max(self.stored.height) } else { height } * width * channels;
        [shape.len(), other, axis(self.stored.width, width), axis(self.stored.height, height)]
    }
}

operator! {
    /// A gather of training pictures that are transformed.
    pub struct Augment {
        value stage: Stage,
        /// The shape of the network's input.
        value shape: Shape,
        /// Crop and mirroring are part of what is drawn, unless nothing is transformed before the pictures are normalised.
        value augmentation: Option<Augmentation>,
        /// `[batch][height][width][channels]`
        writes output: B,
    }
    describe(self) { "batch, transformed, normalised, with labels".into() }
    flops(self, len) { (3 + 8 * usize::from(self.stage.resizes) + 4 * self.stage.op_count) * len(self.output) }
    elements(self, len) { len(self.output) + len(self.output) / 4 }
}

impl<B: Copy> Augment<B> {
    /// The gather of pictures that have been transformed.
    pub fn gather(&self) -> Gather<B> {
        let Self { stage, shape, augmentation, output } = *self;
        let rest = augmentation.map(Augmentation::after_crop);
        let rest = if stage.is_staged() { rest.filter(|it| *it != Augmentation::default()) } else { augmentation };
        Gather { subset: Subset::Train, shape, augmentation: rest, view: View::default(), output }
    }
}

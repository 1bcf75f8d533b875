//! Resizes and crops a picture to the input size of a network, like torchvision's `Resize` and `CenterCrop`.

use anyhow::{Result, ensure};
use image::imageops::{self, FilterType};
use image::{ImageBuffer, Pixel};

use crate::resample::{Area, Resizer};

/// The most pixels of a scaled picture. A very long and thin picture would otherwise take gigabytes.
const MAX_SCALED: u64 = 100_000_000;

/// The size that pictures are brought to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub height: usize,
    pub width: usize,
    /// The part of the scaled picture's shorter side that is cropped, in `(0, 1]`.
    pub crop: f64,
}

impl Target {
    /// A size that the scaled picture just covers.
    pub fn whole((height, width): (usize, usize)) -> Self {
        Self { height, width, crop: 1.0 }
    }

    /// The width and height that the scaled picture just covers.
    fn covered(self) -> (u64, u64) {
        let covered = |side: usize| (side as f64 / self.crop).floor() as u64;
        (covered(self.width), covered(self.height))
    }
}

/// Scales the picture with antialiasing until it just covers the target's size divided by `crop`, and crops the
/// centre. A picture that already has this size keeps its pixels. With a `crop` below 1, the pixels are those of
/// torchvision's transforms of Pillow's pictures; with 1, they may differ from those by 1.
///
/// # Errors
/// If the scaled picture would have more than 100 megapixels.
pub fn resize_crop<P: Pixel<Subpixel = u8> + 'static>(
    picture: ImageBuffer<P, Vec<u8>>,
    target: Target,
) -> Result<Vec<u8>> {
    let Target { height, width, crop } = target;
    let (from_width, from_height) = picture.dimensions();
    let (to_width, to_height) = target.covered();
    if crop == 1.0 && (u64::from(from_width), u64::from(from_height)) == (to_width, to_height) {
        return Ok(picture.into_raw());
    }
    let (scaled_width, scaled_height) = scaled_size((from_width, from_height), (to_width, to_height));
    ensure!(
        scaled_width * scaled_height <= MAX_SCALED,
        "{from_height}×{from_width} (height×width) is too long and thin to be scaled to {to_height}×{to_width}"
    );
    let (scaled_width, scaled_height) = (scaled_width as u32, scaled_height as u32);
    let scaled = match crop {
        1.0 => imageops::resize(&picture, scaled_width, scaled_height, FilterType::Triangle),
        _ => resized(&picture, scaled_width, scaled_height),
    };
    let offset = |full: u32, part: usize| (f64::from(full - part as u32) / 2.0).round_ties_even() as u32;
    let (left, top) = (offset(scaled_width, width), offset(scaled_height, height));
    Ok(imageops::crop_imm(&scaled, left, top, width as u32, height as u32).to_image().into_raw())
}

/// Scales a picture as Pillow does.
fn resized<P: Pixel<Subpixel = u8>>(
    picture: &ImageBuffer<P, Vec<u8>>,
    width: u32,
    height: u32,
) -> ImageBuffer<P, Vec<u8>> {
    let mut scaled = ImageBuffer::new(width, height);
    let (from_width, from_height) = (picture.width() as usize, picture.height() as usize);
    let whole = Area { top: 0, left: 0, height: from_height, width: from_width };
    let (from, to) = ((picture.as_raw().as_slice(), from_width), (&mut *scaled, width as usize));
    match P::CHANNEL_COUNT {
        1 => Resizer::default().resize::<1>(from, whole, to, false),
        _ => Resizer::default().resize::<3>(from, whole, to, false),
    }
    scaled
}

/// The width and height to which a picture of the width and height `from` is scaled before it is cropped to `to`. The side
/// to crop is rounded down, as in torchvision.
fn scaled_size(from: (u32, u32), to: (u64, u64)) -> (u64, u64) {
    let (from_width, from_height) = (u64::from(from.0), u64::from(from.1));
    match from_width * to.1 <= from_height * to.0 {
        true => (to.0, to.0 * from_height / from_width),
        false => (to.1 * from_width / from_height, to.1),
    }
}

/// The bytes that [`resize_crop`] needs for a picture of the width and height `from`: first one of its sides is scaled, in
/// up to four 32-bit numbers per pixel.
pub fn working_bytes(from: (u32, u32), target: Target) -> u64 {
    let covered = target.covered();
    let (scaled_width, scaled_height) = scaled_size(from, covered);
    if (u64::from(from.0), u64::from(from.1)) == covered || scaled_width * scaled_height > MAX_SCALED {
        return 0;
    }
    16 * u64::from(from.0) * scaled_height + 3 * scaled_width * scaled_height
}

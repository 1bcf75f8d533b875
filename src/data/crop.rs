//! Resizes and crops a picture to the input size of a network, like torchvision's `Resize` and `CenterCrop`.

use anyhow::{Result, ensure};
use image::imageops::{self, FilterType};
use image::{ImageBuffer, Pixel};

/// The most pixels of a scaled picture. A very long and thin picture would otherwise take gigabytes.
const MAX_SCALED: u64 = 100_000_000;

/// Scales the picture, with a triangle filter for antialiasing, until it just covers `height × width`, and crops the
/// centre. A picture that already has this size keeps its pixels.
///
/// # Errors
/// If the scaled picture would have more than 100 megapixels.
pub fn resize_crop<P: Pixel<Subpixel = u8> + 'static>(
    picture: ImageBuffer<P, Vec<u8>>,
    height: usize,
    width: usize,
) -> Result<Vec<u8>> {
    let (from_width, from_height) = picture.dimensions();
    if (from_width as usize, from_height as usize) == (width, height) {
        return Ok(picture.into_raw());
    }
    let (to_width, to_height) = (width as u64, height as u64);
    let (scaled_width, scaled_height) = scaled_size((from_width, from_height), (to_width, to_height));
    ensure!(
        scaled_width * scaled_height <= MAX_SCALED,
        "{from_height}×{from_width} (height×width) is too long and thin to be scaled to {height}×{width}"
    );
    let scaled = imageops::resize(&picture, scaled_width as u32, scaled_height as u32, FilterType::Triangle);
    let offset = |full: u64, part: u64| ((full - part) as f64 / 2.0).round_ties_even() as u32;
    let (left, top) = (offset(scaled_width, to_width), offset(scaled_height, to_height));
    Ok(imageops::crop_imm(&scaled, left, top, width as u32, height as u32).to_image().into_raw())
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

/// The bytes that [`resize_crop`] needs for a picture of the width and height `from`: first its height is scaled, in four
/// 32-bit numbers per pixel.
pub fn working_bytes(from: (u32, u32), height: usize, width: usize) -> u64 {
    let (scaled_width, scaled_height) = scaled_size(from, (width as u64, height as u64));
    if (u64::from(from.0), u64::from(from.1)) == (width as u64, height as u64)
        || scaled_width * scaled_height > MAX_SCALED
    {
        return 0;
    }
    16 * u64::from(from.0) * scaled_height + 3 * scaled_width * scaled_height
}

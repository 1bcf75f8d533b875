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
    let (from_width, from_height) = (u64::from(from_width), u64::from(from_height));
    let (to_width, to_height) = (width as u64, height as u64);
    // The side to crop is rounded down, as in torchvision.
    let (scaled_width, scaled_height) = if from_width * to_height <= from_height * to_width {
        (to_width, to_width * from_height / from_width)
    } else {
        (to_height * from_width / from_height, to_height)
    };
    ensure!(
        scaled_width * scaled_height <= MAX_SCALED,
        "{from_height}×{from_width} (height×width) is too long and thin to be scaled to {height}×{width}"
    );
    let scaled = imageops::resize(&picture, scaled_width as u32, scaled_height as u32, FilterType::Triangle);
    let offset = |full: u64, part: u64| ((full - part) as f64 / 2.0).round_ties_even() as u32;
    let (left, top) = (offset(scaled_width, to_width), offset(scaled_height, to_height));
    Ok(imageops::crop_imm(&scaled, left, top, width as u32, height as u32).to_image().into_raw())
}

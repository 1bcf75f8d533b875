//! Brings a picture to a network's size as torchvision's `Resize` and `CenterCrop` do.

use anyhow::{Result, ensure};
use image::imageops::{self, FilterType};
use image::{ImageBuffer, Pixel};

/// A picture much longer than wide would otherwise be scaled to gigabytes.
const MAX_SCALED: u64 = 100_000_000;

/// Scales the picture, antialiased by a triangle filter, until it just covers `height × width`, and takes the middle.
/// A picture of that size keeps its pixels.
///
/// # Errors
/// Where the scaled picture would be larger than 100 megapixels.
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
    // The other side is rounded down, as torchvision does.
    let (scaled_width, scaled_height) = if from_width * to_height <= from_height * to_width {
        (to_width, to_width * from_height / from_width)
    } else {
        (to_height * from_width / from_height, to_height)
    };
    ensure!(
        scaled_width * scaled_height <= MAX_SCALED,
        "{from_width}×{from_height} is too long and thin to be scaled to {width}×{height}"
    );
    let scaled = imageops::resize(&picture, scaled_width as u32, scaled_height as u32, FilterType::Triangle);
    let middle = |whole: u64, part: u64| ((whole - part) as f64 / 2.0).round_ties_even() as u32;
    let (left, top) = (middle(scaled_width, to_width), middle(scaled_height, to_height));
    Ok(imageops::crop_imm(&scaled, left, top, width as u32, height as u32).to_image().into_raw())
}

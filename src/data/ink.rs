//! Prepares a gray picture of one character like those of MNIST: light ink on black, scaled to a box and centred by mass.
//!
//! "The original black and white images were size normalized to fit in a 20×20 pixel box while preserving their
//! aspect ratio … and centered in a 28×28 image by computing the center of mass of the pixels" (LeCun et al.).

use image::imageops::{self, FilterType};
use image::{GrayImage, ImageBuffer, Luma, Pixel};

/// The least difference in gray level between ink and background; less is noise on an empty page.
pub const MIN_CONTRAST: u8 = 16;
/// The longer side of the ink, as a fraction of the image's shorter side.
const BOX_FRACTION: f64 = 20.0 / 28.0;

/// The amount of ink in every pixel, from 0 (none) to 1.
type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// The result of [`prepare`].
pub struct Prepared {
    /// `[height][width]`
    pub pixels: Vec<u8>,
    /// Whether the picture was inverted, because its ink was dark on light.
    pub inverted: bool,
    /// Whether no ink was found.
    pub blank: bool,
}

/// Scaled ink with a margin around it, which contains only the soft edge of the ink.
struct ScaledInk {
    plane: Plane,
    /// The margin on each side in pixels, rounded down. It is 0 where the ink touches the edge of the picture.
    left: i64,
    top: i64,
    right: i64,
    bottom: i64,
}

/// A rectangle in pixels.
struct Rectangle {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// Extracts the ink of `picture` as a `height × width` image. A picture that already has this size is at most inverted;
/// a picture without ink becomes black.
pub fn prepare(mut picture: GrayImage, height: usize, width: usize) -> Prepared {
    let inverted = border_median(&picture, 0) > 127;
    if inverted {
        imageops::invert(&mut picture);
    }
    let background = border_median(&picture, 0);
    let contrast = picture.as_raw().iter().copied().max().unwrap_or(0).saturating_sub(background);
    let blank = contrast < MIN_CONTRAST;
    let (width, height) = (width as u32, height as u32);
    if picture.dimensions() == (width, height) {
        return Prepared { pixels: picture.into_raw(), inverted, blank };
    }
    let area = if blank { None } else { bounding_box(&picture, background + contrast / 2) };
    let Some(area) = area else {
        return Prepared { pixels: vec![0; width as usize * height as usize], inverted, blank };
    };
    let level = |gray: u8| f32::from(gray.saturating_sub(background)) / f32::from(contrast);
    let scale = BOX_FRACTION * f64::from(width.min(height)) / f64::from(area.width.max(area.height));
    let ink = scale_ink(&picture, &area, scale, level);
    Prepared { pixels: centre_by_mass(&ink, width, height), inverted, blank }
}

/// The median level of one channel over the pixels of the border.
pub fn border_median<P: Pixel<Subpixel = u8>>(picture: &ImageBuffer<P, Vec<u8>>, channel: usize) -> u8 {
    let (width, height) = picture.dimensions();
    let mut counts = [0u64; 256];
    let mut count = |x, y| counts[usize::from(picture.get_pixel(x, y).channels()[channel])] += 1;
    for x in 0..width {
        count(x, 0);
        count(x, height - 1);
    }
    for y in 0..height {
        count(0, y);
        count(width - 1, y);
    }
    let half = counts.iter().sum::<u64>().div_ceil(2);
    let mut below = 0;
    let median = counts.iter().position(|&number| {
        below += number;
        below >= half
    });
    median.unwrap_or(0) as u8
}

/// The bounding box of all pixels brighter than `threshold`.
fn bounding_box(picture: &GrayImage, threshold: u8) -> Option<Rectangle> {
    let bright = |(_, _, pixel): &(u32, u32, &Luma<u8>)| pixel.0[0] > threshold;
    let mut edges: Option<(u32, u32, u32, u32)> = None;
    for (x, y, _) in picture.enumerate_pixels().filter(bright) {
        let (left, top, right, bottom) = edges.unwrap_or((x, y, x, y));
        edges = Some((left.min(x), top.min(y), right.max(x), bottom.max(y)));
    }
    edges.map(|(left, top, right, bottom)| Rectangle { left, top, width: right - left + 1, height: bottom - top + 1 })
}

/// Scales the ink in `area`, with a margin for its soft edges, and rescales its maximum to 1. Otherwise a thin line on a
/// large page would fade away.
fn scale_ink(picture: &GrayImage, area: &Rectangle, scale: f64, level: impl Fn(u8) -> f32) -> ScaledInk {
    let margin = (1.0 / scale).ceil() as u32;
    // The margin ends at the edge of the picture; for a long and thin picture it could otherwise exhaust memory.
    let (left, top) = (area.left.saturating_sub(margin), area.top.saturating_sub(margin));
    let (area_right, area_bottom) = (area.left + area.width, area.top + area.height);
    let right = (area_right + margin).min(picture.width());
    let bottom = (area_bottom + margin).min(picture.height());
    let part =
        Plane::from_fn(right - left, bottom - top, |x, y| Luma([level(picture.get_pixel(left + x, top + y).0[0])]));
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let mut plane = imageops::resize(&part, scaled(part.width()), scaled(part.height()), FilterType::Triangle);
    let maximum = plane.as_raw().iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    plane.iter_mut().for_each(|value| *value /= maximum);
    // The small offset keeps a product of exactly 1 from being rounded down to 0.
    let whole_pixels = |side: u32| (f64::from(side) * scale + 1e-6).floor() as i64;
    ScaledInk {
        plane,
        left: whole_pixels(area.left - left),
        top: whole_pixels(area.top - top),
        right: whole_pixels(right - area_right),
        bottom: whole_pixels(bottom - area_bottom),
    }
}

/// Draws `ink` on black with its centre of mass in the middle of the image, or as close to it as keeps all ink inside.
fn centre_by_mass(ink: &ScaledInk, width: u32, height: u32) -> Vec<u8> {
    let plane = &ink.plane;
    let (mut mass, mut x_moment, mut y_moment) = (0.0f64, 0.0, 0.0);
    for (x, y, pixel) in plane.enumerate_pixels() {
        let value = f64::from(pixel.0[0]);
        mass += value;
        x_moment += value * (f64::from(x) + 0.5);
        y_moment += value * (f64::from(y) + 0.5);
    }
    let mass = mass.max(f64::MIN_POSITIVE);
    // Only the margins may lie outside the image. Upscaled ink has wide margins.
    let start = |side: u32, centre: f64, plane_side: u32, before: i64, after: i64| {
        let start = (f64::from(side) / 2.0 - centre).round() as i64;
        start.min(i64::from(side) - i64::from(plane_side) + after).max(-before)
    };
    let left = start(width, x_moment / mass, plane.width(), ink.left, ink.right);
    let top = start(height, y_moment / mass, plane.height(), ink.top, ink.bottom);
    let mut pixels = vec![0; width as usize * height as usize];
    for (x, y, pixel) in plane.enumerate_pixels() {
        let (column, row) = (left + i64::from(x), top + i64::from(y));
        if (0..i64::from(width)).contains(&column) && (0..i64::from(height)).contains(&row) {
            pixels[row as usize * width as usize + column as usize] = (255.0 * pixel.0[0]).round() as u8;
        }
    }
    pixels
}

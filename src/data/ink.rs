//! Makes a grey picture of one character look like MNIST's: light ink on black, scaled to a box, centred by mass.
//!
//! "The original black and white images were size normalized to fit in a 20×20 pixel box while preserving their
//! aspect ratio … and centered in a 28×28 image by computing the center of mass of the pixels" (LeCun et al.).

use image::imageops::{self, FilterType};
use image::{GrayImage, ImageBuffer, Luma, Pixel};

/// Grey levels that ink must stand out by; less is noise on an empty page.
pub const MIN_CONTRAST: u8 = 16;
/// The longer side of the ink is this part of the image's side.
const BOX_PART: f64 = 20.0 / 28.0;

/// Ink from 0 (none) to 1.
type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// What [`prepare`] made of a picture.
pub struct Prepared {
    pub pixels: Vec<u8>,
    /// Whether the ink was dark on light.
    pub inverted: bool,
    /// Whether no ink was found.
    pub blank: bool,
}

/// Scaled ink amid a margin that holds no more than its soft edge.
struct Scaled {
    plane: Plane,
    /// The whole pixels of margin on each side. Ink that touches the picture's edge has none there.
    left: i64,
    top: i64,
    right: i64,
    bottom: i64,
}

/// A rectangle of whole pixels.
struct Area {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// A `height × width` image of the ink in `picture`. A picture of that size already is taken as it is, apart from
/// inversion; one without ink becomes black.
pub fn prepare(mut picture: GrayImage, height: usize, width: usize) -> Prepared {
    let inverted = border_median(&picture, 0) > 127;
    if inverted {
        imageops::invert(&mut picture);
    }
    let ground = border_median(&picture, 0);
    let contrast = picture.as_raw().iter().copied().max().unwrap_or(0).saturating_sub(ground);
    let blank = contrast < MIN_CONTRAST;
    let (width, height) = (width as u32, height as u32);
    if picture.dimensions() == (width, height) {
        return Prepared { pixels: picture.into_raw(), inverted, blank };
    }
    let area = if blank { None } else { bounding_box(&picture, ground + contrast / 2) };
    let Some(area) = area else {
        return Prepared { pixels: vec![0; width as usize * height as usize], inverted, blank };
    };
    let level = |grey: u8| f32::from(grey.saturating_sub(ground)) / f32::from(contrast);
    let scale = BOX_PART * f64::from(width.min(height)) / f64::from(area.width.max(area.height));
    let ink = scale_ink(&picture, &area, scale, level);
    Prepared { pixels: centre_by_mass(&ink, width, height), inverted, blank }
}

/// The median level of one channel of the outermost pixels.
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

/// The smallest rectangle that holds every pixel brighter than `threshold`.
fn bounding_box(picture: &GrayImage, threshold: u8) -> Option<Area> {
    let bright = |(_, _, pixel): &(u32, u32, &Luma<u8>)| pixel.0[0] > threshold;
    let mut edges: Option<(u32, u32, u32, u32)> = None;
    for (x, y, _) in picture.enumerate_pixels().filter(bright) {
        let (left, top, right, bottom) = edges.unwrap_or((x, y, x, y));
        edges = Some((left.min(x), top.min(y), right.max(x), bottom.max(y)));
    }
    edges.map(|(left, top, right, bottom)| Area { left, top, width: right - left + 1, height: bottom - top + 1 })
}

/// Scales the ink of `area`, with a margin for its soft edges, and brings its darkest spot back to full ink: a hair-line
/// on a large page would fade away.
fn scale_ink(picture: &GrayImage, area: &Area, scale: f64, level: impl Fn(u8) -> f32) -> Scaled {
    let margin = (1.0 / scale).ceil() as u32;
    // Not past the picture's edge: around a long and thin picture, such a margin would fill the memory.
    let (left, top) = (area.left.saturating_sub(margin), area.top.saturating_sub(margin));
    let (area_right, area_bottom) = (area.left + area.width, area.top + area.height);
    let right = (area_right + margin).min(picture.width());
    let bottom = (area_bottom + margin).min(picture.height());
    let part =
        Plane::from_fn(right - left, bottom - top, |x, y| Luma([level(picture.get_pixel(left + x, top + y).0[0])]));
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let mut plane = imageops::resize(&part, scaled(part.width()), scaled(part.height()), FilterType::Triangle);
    let most = plane.as_raw().iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    plane.iter_mut().for_each(|value| *value /= most);
    // The little more makes up for a product of one that is rounded down.
    let whole = |side: u32| (f64::from(side) * scale + 1e-6).floor() as i64;
    Scaled {
        plane,
        left: whole(area.left - left),
        top: whole(area.top - top),
        right: whole(right - area_right),
        bottom: whole(bottom - area_bottom),
    }
}

/// Puts `ink` on black such that its centre of mass is the middle, or as near to it as keeps all ink inside.
fn centre_by_mass(ink: &Scaled, width: u32, height: u32) -> Vec<u8> {
    let plane = &ink.plane;
    let (mut mass, mut x_moment, mut y_moment) = (0.0f64, 0.0, 0.0);
    for (x, y, pixel) in plane.enumerate_pixels() {
        let value = f64::from(pixel.0[0]);
        mass += value;
        x_moment += value * (f64::from(x) + 0.5);
        y_moment += value * (f64::from(y) + 0.5);
    }
    let mass = mass.max(f64::MIN_POSITIVE);
    // Only margins may lie outside. That of ink scaled up is wide.
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

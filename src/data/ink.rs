//! Makes a grey picture of one character look like MNIST's: light ink on black, scaled to a box, centred by mass.
//!
//! "The original black and white images were size normalized to fit in a 20×20 pixel box while preserving their
//! aspect ratio … and centered in a 28×28 image by computing the center of mass of the pixels" (LeCun et al.).

use image::imageops::{self, FilterType};
use image::{GrayImage, ImageBuffer, Luma, Pixel};

/// Grey levels that ink must stand out by; less is noise on an empty page.
const MIN_CONTRAST: u8 = 16;
/// The longer side of the ink is this part of the image's side.
const BOX_PART: f64 = 20.0 / 28.0;

/// The margin around the scaled ink, in pixels, which holds no more than its soft edge.
const SCALED_MARGIN: i64 = 1;

/// Ink from 0 (none) to 1.
type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// A rectangle of whole pixels.
struct Area {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// The pixels of a `height × width` image of the ink in `picture`, and whether it was dark on light. A picture of that
/// size already is taken as it is, apart from inversion; one without ink becomes black.
pub fn prepare(mut picture: GrayImage, height: usize, width: usize) -> (Vec<u8>, bool) {
    let inverted = border_median(&picture, 0) > 127;
    if inverted {
        imageops::invert(&mut picture);
    }
    let (width, height) = (width as u32, height as u32);
    if picture.dimensions() == (width, height) {
        return (picture.into_raw(), inverted);
    }
    let ground = border_median(&picture, 0);
    let brightest = picture.as_raw().iter().copied().max().unwrap_or(0);
    if brightest.saturating_sub(ground) < MIN_CONTRAST {
        return (vec![0; width as usize * height as usize], inverted);
    }
    let threshold = ground + (brightest - ground) / 2;
    let Some(area) = bounding_box(&picture, threshold) else {
        return (vec![0; width as usize * height as usize], inverted);
    };
    let range = f32::from(brightest - ground);
    let level = |grey: u8| f32::from(grey.saturating_sub(ground)) / range;
    let scale = BOX_PART * f64::from(width.min(height)) / f64::from(area.width.max(area.height));
    let ink = scale_ink(&picture, &area, scale, level);
    (centre_by_mass(&ink, width, height), inverted)
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
fn scale_ink(picture: &GrayImage, area: &Area, scale: f64, level: impl Fn(u8) -> f32) -> Plane {
    let margin = (1.0 / scale).ceil() as u32;
    let (left, top) = (area.left.saturating_sub(margin), area.top.saturating_sub(margin));
    let right = (area.left + area.width + margin).min(picture.width());
    let bottom = (area.top + area.height + margin).min(picture.height());
    let part =
        Plane::from_fn(right - left, bottom - top, |x, y| Luma([level(picture.get_pixel(left + x, top + y).0[0])]));
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let mut ink = imageops::resize(&part, scaled(part.width()), scaled(part.height()), FilterType::Triangle);
    let most = ink.as_raw().iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    ink.iter_mut().for_each(|value| *value /= most);
    ink
}

/// Puts `ink` on black such that its centre of mass is the middle, or as near to it as keeps all ink inside.
fn centre_by_mass(ink: &Plane, width: u32, height: u32) -> Vec<u8> {
    let (mut mass, mut x_moment, mut y_moment) = (0.0f64, 0.0, 0.0);
    for (x, y, pixel) in ink.enumerate_pixels() {
        let value = f64::from(pixel.0[0]);
        mass += value;
        x_moment += value * (f64::from(x) + 0.5);
        y_moment += value * (f64::from(y) + 0.5);
    }
    let mass = mass.max(f64::MIN_POSITIVE);
    let start = |side: u32, centre: f64, ink_side: u32| {
        let start = (f64::from(side) / 2.0 - centre).round() as i64;
        start.min(i64::from(side) - i64::from(ink_side) + SCALED_MARGIN).max(-SCALED_MARGIN)
    };
    let (left, top) = (start(width, x_moment / mass, ink.width()), start(height, y_moment / mass, ink.height()));
    let mut pixels = vec![0; width as usize * height as usize];
    for (x, y, pixel) in ink.enumerate_pixels() {
        let (column, row) = (left + i64::from(x), top + i64::from(y));
        if (0..i64::from(width)).contains(&column) && (0..i64::from(height)).contains(&row) {
            pixels[row as usize * width as usize + column as usize] = (255.0 * pixel.0[0]).round() as u8;
        }
    }
    pixels
}

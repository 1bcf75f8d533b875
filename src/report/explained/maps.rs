//! Maps of an input's pixels as pictures.

use super::super::picture::{Picture, Rgb, diverging, sequential};
use crate::explain::Map;

/// The share of values that may be outside the scale, so that a few extreme pixels do not darken the others.
const CLIPPED: f64 = 0.005;

/// The share of the map's colour where the map is largest.
const OPACITY: f32 = 0.65;

/// A normalised map, of the picture's size, over the picture in gray: the larger the value, the more of its colour.
pub fn overlay(picture: &Picture, map: &Map) -> Picture {
    let pixel = |(&pixel, &value): (&Rgb, &f32)| {
        let [red, green, blue] = pixel.map(f32::from);
        // The luma of ITU-R BT.601.
        let gray = 0.299 * red + 0.587 * green + 0.114 * blue;
        let opacity = OPACITY * (0.35 + 0.65 * value);
        sequential(value).map(|colour| ((1.0 - opacity) * gray + opacity * f32::from(colour)).round() as u8)
    };
    Picture { pixels: picture.pixels.iter().zip(&map.values).map(pixel).collect(), ..picture.clone() }
}

/// The largest magnitude of each pixel's channels, `[pixels][channels]`, from dark for 0 to light for the largest.
pub fn magnitudes(values: &[f32], channels: usize, width: usize) -> Picture {
    let largest = |pixel: &[f32]| pixel.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let pixels: Vec<f32> = values.chunks_exact(channels).map(largest).collect();
    let scale = limit(&pixels);
    Picture::from_values(&pixels, width, |value| sequential(value / scale))
}

/// Red where the map is positive, blue where it is negative.
pub fn signed(map: &Map) -> Picture {
    let scale = limit(&map.values);
    Picture::from_values(&map.values, map.width, |value| diverging(value / scale))
}

/// A magnitude that only a few values exceed; 1 if nearly all are 0.
fn limit(values: &[f32]) -> f32 {
    let mut sorted: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    sorted.sort_by(f32::total_cmp);
    let at = ((1.0 - CLIPPED) * sorted.len() as f64) as usize;
    let clipped = sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0);
    let largest = sorted.last().copied().unwrap_or(0.0);
    [clipped, largest].into_iter().find(|&limit| limit > 0.0).unwrap_or(1.0)
}

//! The filters of a first convolution as pictures.

use super::picture::{Picture, Rgb, columns_for, contact_sheet, diverging};
use crate::network::{Layout, Network, Weights};

/// Filters are enlarged to at least this many pixels.
const SIDE: usize = 56;
const GAP: usize = 4;

/// The filters of a convolution, `[out][kernel][kernel][in]` in memory, each as a picture with a pixel per position. Each
/// filter has a scale of its own, symmetric about zero. With three input channels, 0 is middle gray, and a channel's
/// largest magnitude of either sign is 0 or 255. With any other number of channels, the picture shows their mean: 0 is
/// white, positive red and negative blue.
///
/// # Panics
/// If the values are not a whole number of filters.
pub fn filter_pictures(values: &[f32], kernel: usize, in_channels: usize) -> Vec<Picture> {
    let len = kernel * kernel * in_channels;
    assert_eq!(values.len() % len, 0, "{} values in filters of {len}", values.len());
    let filters = values.chunks_exact(len);
    match in_channels {
        3 => filters.map(|filter| coloured(filter, kernel)).collect(),
        _ => filters.map(|filter| signed(filter, kernel, in_channels)).collect(),
    }
}

fn coloured(filter: &[f32], kernel: usize) -> Picture {
    let scale = magnitude(filter);
    let level = |value: f32| (127.5 + 127.5 * value / scale).round() as u8;
    let pixels: Vec<Rgb> = filter.chunks_exact(3).map(|pixel| [0, 1, 2].map(|channel| level(pixel[channel]))).collect();
    Picture { width: kernel, height: kernel, pixels }
}

fn signed(filter: &[f32], kernel: usize, in_channels: usize) -> Picture {
    let mean = |pixel: &[f32]| pixel.iter().sum::<f32>() / in_channels as f32;
    let means: Vec<f32> = filter.chunks_exact(in_channels).map(mean).collect();
    let scale = magnitude(&means);
    Picture::from_values(&means, kernel, |value| diverging(value / scale))
}

/// The largest magnitude; 1 if all values are 0.
fn magnitude(values: &[f32]) -> f32 {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 { largest } else { 1.0 }
}

/// A contact sheet of the filters of a network's first convolution, with `background` between them; `None` if the first
/// layer with parameters is not a convolution.
pub fn first_layer_filters(network: &Network, weights: &Weights, background: Rgb) -> Option<Picture> {
    let first = network.nodes.iter().find_map(|node| node.weight)?;
    let weight = &network.parameters[first];
    let Layout::Conv { in_channels, kernel, .. } = weight.layout else { return None };
    let filters = filter_pictures(&weights.parameters[weight.range()], kernel, in_channels);
    let factor = SIDE.div_ceil(kernel);
    let filters: Vec<Picture> = filters.iter().map(|filter| filter.enlarged(factor)).collect();
    Some(contact_sheet(&filters, columns_for(filters.len()), GAP, background))
}

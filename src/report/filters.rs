//! The filters of a first convolution as pictures.

use super::picture::{Picture, Rgb, columns_for, contact_sheet};
use crate::network::{Layout, Network, Weights};
use crate::shape::Shape;

/// Filters are enlarged to at least this many pixels.
const SIDE: usize = 56;
const GAP: usize = 4;

/// The filters of a convolution, `[out][kernel][kernel][in]` in memory, each as a picture with a pixel per position. Each
/// filter has a scale of its own; see [`Picture::from_signed`].
///
/// # Panics
/// If the values are not a whole number of filters.
pub fn filter_pictures(values: &[f32], kernel: usize, in_channels: usize) -> Vec<Picture> {
    let shape = Shape::new(kernel, kernel, in_channels);
    assert_eq!(values.len() % shape.len(), 0, "{} values in filters of {shape}", values.len());
    values
        .chunks_exact(shape.len())
        .map(|filter| Picture::from_signed(filter, shape, magnitude(filter, shape)))
        .collect()
}

/// The largest magnitude of what [`Picture::from_signed`] shows.
pub(super) fn magnitude(values: &[f32], shape: Shape) -> f32 {
    let shown: Vec<f32> = match shape.channels {
        3 => values.to_vec(),
        channels => values.chunks_exact(channels).map(|it| it.iter().sum::<f32>() / channels as f32).collect(),
    };
    shown.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()))
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

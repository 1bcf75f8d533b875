//! Deconvolution: the part of a picture that a unit responds to (Zeiler and Fergus, "Visualizing and Understanding
//! Convolutional Networks", 2013).

use anyhow::{Result, ensure};

use super::Attribution;
use crate::ops::Backend;
use crate::shape::Shape;

/// One output of a layer, with its activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    pub channel: usize,
    pub row: usize,
    pub column: usize,
    pub activation: f32,
}

impl Unit {
    fn index(&self, shape: Shape) -> usize {
        (self.row * shape.width + self.column) * shape.channels + self.channel
    }
}

/// The unit of every channel with the largest activation in a layer's output `[height][width][channels]`, the first of
/// equals.
pub fn strongest_units(shape: Shape, output: &[f32]) -> Vec<Unit> {
    let unit = |channel| Unit { channel, row: 0, column: 0, activation: f32::NEG_INFINITY };
    let mut strongest: Vec<Unit> = (0..shape.channels).map(unit).collect();
    for (position, values) in output.chunks_exact(shape.channels).enumerate() {
        for (unit, &activation) in strongest.iter_mut().zip(values) {
            if activation > unit.activation {
                let (row, column) = (position / shape.width, position % shape.width);
                *unit = Unit { row, column, activation, ..*unit };
            }
        }
    }
    strongest
}

/// For each input and a unit of the last node, the activations of all other units are set to 0 and the layer is projected to
/// the input: unpooling by the switches of the forward pass, rectification, transposed filters. Returns
/// `[units][height][width][channels]`, in the scale of the normalised input.
///
/// `network` must be that of [`ReluGradient::Rectified`](crate::plan::ReluGradient::Rectified), and end with the layer
/// of the units. Batch normalisations multiply by their scale, and other layers pass the gradient.
///
/// # Errors
/// If a unit does not exist.
pub fn deconvolve<B: Backend>(network: &mut Attribution<'_, B>, units: &[(&[f32], Unit)]) -> Result<Vec<Vec<f32>>> {
    let (shape, input_len) = (network.output_shape(), network.input().len());
    let mut all = Vec::with_capacity(units.len());
    for group in units.chunks(network.max_batch()) {
        let inputs: Vec<f32> = group.iter().flat_map(|(input, _)| input.iter().copied()).collect();
        network.forward(&inputs)?;
        let mut seeds = vec![0.0; group.len() * shape.len()];
        for (seed, (_, unit)) in seeds.chunks_exact_mut(shape.len()).zip(group) {
            let exists = unit.channel < shape.channels && unit.row < shape.height && unit.column < shape.width;
            ensure!(exists, "{unit:?} is not in a layer of {shape}");
            seed[unit.index(shape)] = unit.activation;
        }
        network.backward(&seeds)?;
        all.extend(network.gradients(0)?.chunks_exact(input_len).map(<[f32]>::to_vec));
    }
    Ok(all)
}

/// An image of a set, and the unit of a channel that it excites.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Excitation {
    pub image: usize,
    pub unit: Unit,
}

/// For every channel of a layer, the images of a set that excite it most.
#[derive(Clone, Debug)]
pub struct Strongest {
    count: usize,
    channels: Vec<Vec<Excitation>>,
}

impl Strongest {
    /// Keeps `count` images for each of the first `channels` of a layer.
    pub fn new(count: usize, channels: usize) -> Self {
        Self { count, channels: vec![Vec::new(); channels] }
    }

    /// Adds the layer's output for an image, `[height][width][channels]`.
    pub fn add(&mut self, image: usize, shape: Shape, output: &[f32]) {
        for (kept, unit) in self.channels.iter_mut().zip(strongest_units(shape, output)) {
            let at = kept.partition_point(|other| other.unit.activation >= unit.activation);
            kept.insert(at, Excitation { image, unit });
            kept.truncate(self.count);
        }
    }

    /// The images of every channel, the strongest excitation first.
    pub fn channels(&self) -> &[Vec<Excitation>] {
        &self.channels
    }
}

//! Parameters: names, initial values, and conversion between PyTorch's layout in files and the layout in memory.

use std::ops::Range;

use super::cells::edge_filters;
use crate::rng::{Philox, Purpose};
use crate::shape::Shape;

/// One named tensor of the flat parameter buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// PyTorch's name, such as `layer1.0.weight`.
    pub name: String,
    pub layout: Layout,
    pub initial: Initial,
    /// Offset in the flat buffer.
    pub offset: usize,
    /// Whether training never changes it.
    pub fixed: bool,
}

/// The initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Uniform in ±1/√fan_in: PyTorch's default for convolutions and linear layers.
    Uniform {
        fan_in: usize,
    },
    /// Normal with mean 0.
    Normal {
        deviation: f32,
    },
    Constant(f32),
    /// Of a convolution with an odd kernel: filter `i` passes on channel `i` (`torch.nn.init.dirac_`). Filters beyond
    /// the input channels are `Uniform`.
    Identity {
        fan_in: usize,
    },
    /// Of a convolution: filters for edges in as many directions as there are filters, the same for all input channels.
    Edges,
}

/// The layout of a parameter in a file (PyTorch's order) and in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// A vector, the same in both.
    Vector(usize),
    /// File `[out][in][k][k]`, memory `[out][k][k][in]`.
    Conv { out_channels: usize, in_channels: usize, kernel: usize },
    /// `[out][in]`, where `in` is the concatenation of flattened activations. Each activation is in channel, height,
    /// width order in the file, and in height, width, channel order in memory.
    Linear { out_features: usize, segments: Vec<Shape> },
}

impl Parameter {
    pub fn len(&self) -> usize {
        self.layout.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its range in the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Initial values, in file order.
    pub(super) fn initial_values(&self, seed: u64, index: u32) -> Vec<f32> {
        let mut stream = Philox::new(seed, Purpose::Initialisation, index);
        let mut uniform = |fan_in: usize| -> Vec<f32> {
            let bound = 1.0 / (fan_in as f32).sqrt();
            (0..self.len()).map(|_| stream.uniform(-bound, bound)).collect()
        };
        match self.initial {
            Initial::Uniform { fan_in } => uniform(fan_in),
            Initial::Edges => {
                let shape = self.layout.file_shape();
                let filters = edge_filters(shape[0], shape[2]);
                filters.into_iter().flat_map(|filter| filter.repeat(shape[1])).collect()
            }
            Initial::Identity { fan_in } => {
                let mut values = uniform(fan_in);
                // A filter is `[in][k][k]` long, and the centre of channel i is at i k² + ⌊k² / 2⌋.
                let shape = self.layout.file_shape();
                let [area, len] = [2, 1].map(|from| shape[from..].iter().product::<usize>());
                for (channel, filter) in values.chunks_exact_mut(len).take(shape[1]).enumerate() {
                    filter.fill(0.0);
                    filter[channel * area + area / 2] = 1.0;
                }
                values
            }
            Initial::Normal { deviation } => (0..self.len()).map(|_| deviation * stream.normal()).collect(),
            Initial::Constant(value) => vec![value; self.len()],
        }
    }
}

impl Layout {
    pub fn len(&self) -> usize {
        self.file_shape().iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor's shape in PyTorch.
    pub fn file_shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(len) => vec![*len],
            Self::Conv { out_channels, in_channels, kernel } => vec![*out_channels, *in_channels, *kernel, *kernel],
            Self::Linear { out_features, segments } => vec![*out_features, segments.iter().map(Shape::len).sum()],
        }
    }

    /// Fills `memory` from values in file order.
    pub fn memory_from_file(&self, file: &[f32], memory: &mut [f32]) {
        self.for_each_pair(|in_memory, in_file| memory[in_memory] = file[in_file]);
    }

    /// Fills `file` from values in memory order.
    pub fn file_from_memory(&self, memory: &[f32], file: &mut [f32]) {
        self.for_each_pair(|in_memory, in_file| file[in_file] = memory[in_memory]);
    }

    /// Calls `pair(index in memory, index in file)` for every element.
    fn for_each_pair(&self, mut pair: impl FnMut(usize, usize)) {
        match self {
            Self::Vector(len) => (0..*len).for_each(|index| pair(index, index)),
            Self::Conv { out_channels, in_channels, kernel } => {
                let filter = Shape::new(*kernel, *kernel, *in_channels);
                (0..*out_channels).for_each(|out| channels_last_pairs(filter, out * filter.len(), &mut pair));
            }
            Self::Linear { out_features, segments } => {
                let mut begin = 0;
                for _ in 0..*out_features {
                    for &segment in segments {
                        channels_last_pairs(segment, begin, &mut pair);
                        begin += segment.len();
                    }
                }
            }
        }
    }
}

/// The index pairs of a block of `shape` at offset `begin`: height, width, channel order in memory and channel, height,
/// width order in the file.
fn channels_last_pairs(shape: Shape, begin: usize, pair: &mut impl FnMut(usize, usize)) {
    for pixel in 0..shape.pixels() {
        for channel in 0..shape.channels {
            pair(begin + pixel * shape.channels + channel, begin + channel * shape.pixels() + pixel);
        }
    }
}

//! Where branches meet: addition, concatenation along channels, shortcuts, and the plan's gradient sums.

use anyhow::Result;

use super::Span;
use crate::shape::Shape;

/// Copies `channels` values per pixel between buffers of different channel counts: concatenation, and its inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelCopy {
    /// Pixels of one sample.
    pub pixels: usize,
    /// Channels copied.
    pub channels: usize,
    /// Channels of a pixel in the source, and the first one read.
    pub source_channels: usize,
    pub source_offset: usize,
    /// Channels of a pixel in the target, and the first one written.
    pub target_channels: usize,
    pub target_offset: usize,
}

/// A shortcut without parameters to a smaller map of more channels: every `stride`-th pixel in both directions, between
/// channels of zeros (option A of He et al., "Deep Residual Learning for Image Recognition").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subsample {
    pub input: Shape,
    pub stride: usize,
    /// At least the input's.
    pub channels: usize,
}

impl Subsample {
    pub fn output(&self) -> Shape {
        Shape::new(self.input.height.div_ceil(self.stride), self.input.width.div_ceil(self.stride), self.channels)
    }

    /// The output's channel that is the input's first; half of the zeros are before it.
    pub fn first_channel(&self) -> usize {
        (self.channels - self.input.channels) / 2
    }
}

/// Joins and splits.
pub trait JoinOps {
    /// `output = a + b` over `len` elements.
    fn add_forward(&mut self, len: usize, a: Span, b: Span, output: Span) -> Result<()>;

    /// `sum += term` over `len` elements.
    fn accumulate(&mut self, len: usize, term: Span, sum: Span) -> Result<()>;

    /// `target = source` over `len` elements.
    fn copy(&mut self, len: usize, source: Span, target: Span) -> Result<()>;

    /// Copies a range of channels; the other channels of the target are left alone.
    fn copy_channels(&mut self, op: &ChannelCopy, batch: usize, source: Span, target: Span) -> Result<()>;

    /// Writes all of the output.
    fn subsample_forward(&mut self, op: &Subsample, batch: usize, input: Span, output: Span) -> Result<()>;

    /// Writes all of `d_input`, zeros where the input was left out.
    fn subsample_backward(&mut self, op: &Subsample, batch: usize, d_output: Span, d_input: Span) -> Result<()>;
}

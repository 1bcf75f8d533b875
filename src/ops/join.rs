//! Where branches meet: addition, concatenation along channels, and the plan's gradient sums.

use anyhow::Result;

use super::Span;

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
}

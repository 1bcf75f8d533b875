//! Operators that join branches: addition, concatenation along channels, shortcuts, and sums of gradients.

use anyhow::{Result, ensure};

use super::operands::{Layer, operator};
use crate::shape::{Shape, Window};

/// Copies `channels` values per pixel between buffers with different channel counts: concatenation and its gradient.
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

impl ChannelCopy {
    /// The copy in the opposite direction.
    pub fn inverse(self) -> Self {
        Self {
            source_channels: self.target_channels,
            source_offset: self.target_offset,
            target_channels: self.source_channels,
            target_offset: self.source_offset,
            ..self
        }
    }
}

/// A parameter-free shortcut that subsamples by `stride` in both directions and pads the channels with zeros on both
/// sides (option A of He et al., "Deep Residual Learning for Image Recognition").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subsample {
    pub input: Shape,
    pub stride: usize,
    /// Output channels, at least as many as the input's.
    pub channels: usize,
}

impl Subsample {
    /// The output channel that holds the input's first channel; half of the zero channels come before it.
    pub fn first_channel(&self) -> usize {
        (self.channels - self.input.channels) / 2
    }
}

operator! {
    /// `output = a + b`. The output may be `a`: the plan accumulates gradients this way.
    pub struct Add {
        reads a: B,
        reads b: B,
        writes output: B,
    }
    describe(self) { "sum".into() }
    flops(self, len) { len(self.output) }
}

operator! {
    /// A copy of a whole buffer.
    pub struct CopyBuffer {
        reads input: B,
        writes output: B,
    }
    describe(self) { "copy".into() }
    flops(self, _len) { 0 }
}

operator! {
    /// A copy of a range of channels; the other channels of the output are unchanged.
    pub struct CopyChannels {
        value op: ChannelCopy,
        reads input: B,
        writes output: B,
    }
    describe(self) { "copy of channels".into() }
    flops(self, _len) { 0 }
    elements(self, len) { 2 * len(self.input) / self.op.source_channels * self.op.channels }
}

operator! {
    /// See [`Subsample`].
    pub struct SubsampleForward {
        value op: Subsample,
        reads input: B,
        writes output: B,
    }
    describe(self) { "shortcut".into() }
    flops(self, _len) { 0 }
}

operator! {
    /// Writes all of `d_input`, with zeros for pixels that the forward pass skipped.
    pub struct SubsampleBackward {
        value op: Subsample,
        reads d_output: B,
        writes d_input: B,
    }
    describe(self) { "gradient of shortcut".into() }
    flops(self, _len) { 0 }
}

impl Layer for Subsample {
    fn name(&self) -> &'static str {
        "shortcut"
    }

    fn output(&self) -> Result<Shape> {
        let Self { input, stride, channels } = *self;
        ensure!(stride > 0, "stride must be at least 1");
        ensure!(channels >= input.channels, "a shortcut cannot reduce {} channels to {channels}", input.channels);
        Ok(Shape::new(input.height.div_ceil(stride), input.width.div_ceil(stride), channels))
    }

    fn window(&self) -> Option<Window> {
        Some(Window { kernel: 1, stride: self.stride, padding: 0 })
    }

    fn describe(&self) -> String {
        format!("shortcut stride {}, {}→{}", self.stride, self.input.channels, self.channels)
    }
}

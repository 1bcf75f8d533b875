//! Where branches meet: addition, concatenation along channels, shortcuts, and the plan's gradient sums.

use anyhow::{Result, ensure};

use super::Span;
use super::operands::{Backward, Forward, Layer, Unary, operator};
use crate::shape::{Shape, Window};

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

operator! {
    /// `output = a + b`; the output may be `a`, which the plan's sums of gradients are.
    pub struct Add {
        reads a: B,
        reads b: B,
        writes output: B,
    }
    describe(self) { "sum".into() }
    flops(self, len) { len(self.output) }
}

/// A copy of a whole buffer.
pub type CopyBuffer<B = Span> = Forward<Whole, B>;

/// All of a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whole;

/// A copy of a range of channels; the other channels of the output are left alone.
pub type CopyChannels<B = Span> = Forward<ChannelCopy, B>;

pub type SubsampleForward<B = Span> = Forward<Subsample, B>;

/// Writes all of `d_input`, zeros where the input was left out.
pub type SubsampleBackward<B = Span> = Backward<Subsample, B>;

impl Unary for Whole {
    fn describe(&self) -> String {
        "copy".into()
    }
}

impl Unary for ChannelCopy {
    fn describe(&self) -> String {
        "copy of channels".into()
    }

    fn elements(&self, inputs: usize, _outputs: usize) -> usize {
        2 * inputs / self.source_channels * self.channels
    }
}

impl Layer for Subsample {
    fn name(&self) -> &'static str {
        "shortcut"
    }

    fn output(&self) -> Result<Shape> {
        let Self { input, stride, channels } = *self;
        ensure!(stride > 0, "stride must be at least 1");
        ensure!(channels >= input.channels, "a shortcut from {} to {channels} channels", input.channels);
        Ok(Subsample::output(self))
    }

    fn window(&self) -> Option<Window> {
        Some(Window { kernel: 1, stride: self.stride, padding: 0 })
    }

    fn describe_layer(&self) -> String {
        format!("shortcut stride {}, {}→{}", self.stride, self.input.channels, self.channels)
    }
}

impl Unary for Subsample {
    fn describe(&self) -> String {
        "shortcut".into()
    }
}

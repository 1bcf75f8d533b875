//! Where branches meet: addition, concatenation along channels, shortcuts, and the plan's gradient sums.

use anyhow::{Result, ensure};

use super::Span;
use super::operands::{Backward, Forward, Layer, LayerValues, Operands, Unary, operands};
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

/// `output = a + b`; the output may be `a`, which the plan's sums of gradients are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Add<B = Span> {
    pub a: B,
    pub b: B,
    pub output: B,
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

operands!(Add {
    values: ; buffers: a, b, output; optional: ; parts: ;
    reads: a, b +; writes: output +
});

impl<B: Copy> Operands<B> for Add<B> {
    fn describe(&self) -> String {
        "sum".into()
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        len(self.output)
    }
}

impl Unary for Whole {
    fn describe(&self) -> String {
        "copy".into()
    }

    fn flops(&self, _inputs: usize, _outputs: usize) -> usize {
        0
    }
}

impl Unary for ChannelCopy {
    fn describe(&self) -> String {
        "copy of channels".into()
    }

    fn flops(&self, _inputs: usize, _outputs: usize) -> usize {
        0
    }

    fn elements(&self, inputs: usize, _outputs: usize) -> usize {
        2 * inputs / self.source_channels * self.channels
    }
}

impl Layer for Subsample {
    type Forward<B> = SubsampleForward<B>;
    type Backward<B> = SubsampleBackward<B>;

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

    fn forward<B>(self, input: B, output: B) -> SubsampleForward<B> {
        Forward { op: self, input, output }
    }

    fn backward<B>(self, values: LayerValues<B>) -> SubsampleBackward<B> {
        Backward { op: self, d_output: values.d_output, d_input: values.d_input }
    }
}

impl Unary for Subsample {
    fn describe(&self) -> String {
        "shortcut".into()
    }

    fn flops(&self, _inputs: usize, _outputs: usize) -> usize {
        0
    }
}

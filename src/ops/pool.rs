//! Max, average and adaptive average pooling (`torch.nn.MaxPool2d`, `AvgPool2d`, `AdaptiveAvgPool2d`).

use anyhow::{Context, Result, ensure};

use super::{GradientEpilogue, Span};
use crate::shape::{Shape, Window};

/// Max pooling. Padding never wins; of equal maxima the first in scan order does; NaN wins over everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool2d {
    pub input: Shape,
    pub window: Window,
    /// Whether a last window may reach beyond the padding; see [`Window::positions_rounded_up`].
    pub ceil_mode: bool,
}

/// Average pooling over the whole window, padding included (PyTorch's `count_include_pad=True`); what of a window is
/// beyond the padding does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvgPool2d {
    pub input: Shape,
    pub window: Window,
    /// As in [`MaxPool2d`].
    pub ceil_mode: bool,
}

/// Average pooling to a given height and width; for the windows see [`crate::shape::adaptive_window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdaptiveAvgPool2d {
    pub input: Shape,
    pub height: usize,
    pub width: usize,
}

impl MaxPool2d {
    /// # Errors
    /// Where the window does not fit, or the padding is more than half of it (a window could then hold padding alone).
    pub fn output(&self) -> Result<Shape> {
        pooled(self.input, self.window, self.ceil_mode)
    }
}

impl AvgPool2d {
    /// # Errors
    /// As [`MaxPool2d::output`].
    pub fn output(&self) -> Result<Shape> {
        pooled(self.input, self.window, self.ceil_mode)
    }

    /// Values that the mean at output `(y, x)` divides by.
    pub fn divisor(&self, y: usize, x: usize) -> f32 {
        let Window { kernel, stride, padding } = self.window;
        let along = |index: usize, size: usize| kernel.min(size + 2 * padding - index * stride);
        (along(y, self.input.height) * along(x, self.input.width)) as f32
    }
}

impl AdaptiveAvgPool2d {
    pub fn output(&self) -> Shape {
        Shape::new(self.height, self.width, self.input.channels)
    }
}

fn pooled(input: Shape, window: Window, ceil_mode: bool) -> Result<Shape> {
    ensure!(
        window.padding <= window.kernel / 2,
        "pooling's padding {} is more than half of its kernel {}",
        window.padding,
        window.kernel
    );
    let along = |size| if ceil_mode { window.positions_rounded_up(size) } else { window.positions(size) };
    let sizes = along(input.height).and_then(|height| Ok((height, along(input.width)?)));
    let (height, width) = sizes.with_context(|| format!("pooling over {input}"))?;
    Ok(Shape::new(height, width, input.channels))
}

/// Max pooling that ends a convolution; the convolution's output is its input. `Buffer` is a [`Span`], or in a plan
/// the buffer's number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolEpilogue<Buffer = Span> {
    pub op: MaxPool2d,
    pub output: Buffer,
    /// As in [`PoolOps::max_pool2d_forward`].
    pub argmax: Option<Buffer>,
}

impl<Buffer> PoolEpilogue<Buffer> {
    /// The same with the buffers named differently.
    pub fn map<Other>(self, name: impl Fn(Buffer) -> Other) -> PoolEpilogue<Other> {
        PoolEpilogue { op: self.op, output: name(self.output), argmax: self.argmax.map(name) }
    }
}

/// Spans of max pooling's gradient.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool2dBackward {
    /// With an epilogue, what is in it afterwards is up to the backend.
    pub d_output: Span,
    pub argmax: Span,
    pub d_input: Span,
    /// Of the layer before. Its `output` is the pooling's own: a maximum has the sign of the input that it is, and all
    /// other inputs have no gradient.
    pub epilogue: Option<GradientEpilogue>,
}

/// Pooling, forward and backward.
pub trait PoolOps {
    /// `argmax` (in [`super::Region::Indices`]) receives, for every output, `y · width + x` of the maximum within its
    /// sample; `None` where no backward pass follows.
    fn max_pool2d_forward(
        &mut self,
        op: &MaxPool2d,
        batch: usize,
        input: Span,
        output: Span,
        argmax: Option<Span>,
    ) -> Result<()>;

    /// Each input receives the sum of the gradients of the windows whose maximum it was, each taken back through the
    /// epilogue's activation, of which the epilogue's bias gradient is the sum per channel.
    fn max_pool2d_backward(&mut self, op: &MaxPool2d, batch: usize, spans: MaxPool2dBackward) -> Result<()>;

    fn avg_pool2d_forward(&mut self, op: &AvgPool2d, batch: usize, input: Span, output: Span) -> Result<()>;

    fn avg_pool2d_backward(&mut self, op: &AvgPool2d, batch: usize, d_output: Span, d_input: Span) -> Result<()>;

    fn adaptive_avg_pool2d_forward(
        &mut self,
        op: &AdaptiveAvgPool2d,
        batch: usize,
        input: Span,
        output: Span,
    ) -> Result<()>;

    fn adaptive_avg_pool2d_backward(
        &mut self,
        op: &AdaptiveAvgPool2d,
        batch: usize,
        d_output: Span,
        d_input: Span,
    ) -> Result<()>;
}

//! Max, average and adaptive average pooling (`torch.nn.MaxPool2d`, `AvgPool2d`, `AdaptiveAvgPool2d`).

use anyhow::{Context, Result, ensure};

use super::Span;
use super::bias::GradientEpilogue;
use super::operands::{Backward, Forward, Layer, LayerValues, Operands, Unary, mapped, operands};
use crate::shape::{Shape, Window, adaptive_window};

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

/// Max pooling that ends a convolution; the convolution's output is its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolEpilogue<B = Span> {
    pub op: MaxPool2d,
    pub output: B,
    /// As in [`MaxPool2dForward`].
    pub argmax: Option<B>,
}

mapped!(PoolEpilogue { values: op; buffers: output; optional: argmax; parts: });

impl<B: Copy> PoolEpilogue<B> {
    pub(super) fn reads(&self) -> impl Iterator<Item = B> {
        None.into_iter()
    }

    pub(super) fn writes(&self) -> impl Iterator<Item = B> {
        std::iter::once(self.output).chain(self.argmax)
    }
}

/// The maxima of all windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxPool2dForward<B = Span> {
    pub op: MaxPool2d,
    pub input: B,
    pub output: B,
    /// In [`Region::Indices`](super::Region::Indices), receives for every output `y · width + x` of the maximum within its
    /// sample; `None` where no backward pass follows.
    pub argmax: Option<B>,
}

/// Each input receives the sum of the gradients of the windows whose maximum it was, each taken back through the
/// epilogue's activation, of which the epilogue's bias gradient is the sum per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxPool2dBackward<B = Span> {
    pub op: MaxPool2d,
    /// With an epilogue, what is in it afterwards is up to the backend.
    pub d_output: B,
    pub argmax: B,
    pub d_input: B,
    /// Of the layer before. Its `output` is the pooling's own: a maximum has the sign of the input that it is, and all
    /// other inputs have no gradient.
    pub epilogue: Option<GradientEpilogue<B>>,
}

pub type AvgPool2dForward<B = Span> = Forward<AvgPool2d, B>;
pub type AvgPool2dBackward<B = Span> = Backward<AvgPool2d, B>;
pub type AdaptiveAvgPool2dForward<B = Span> = Forward<AdaptiveAvgPool2d, B>;
pub type AdaptiveAvgPool2dBackward<B = Span> = Backward<AdaptiveAvgPool2d, B>;

operands!(MaxPool2dForward {
    values: op; buffers: input, output; optional: argmax; parts: ;
    reads: input +; writes: output + argmax
});

impl<B: Copy> Operands<B> for MaxPool2dForward<B> {
    fn describe(&self) -> String {
        "max pooling".into()
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.op.window.kernel.pow(2) * len(self.output)
    }
}

operands!(MaxPool2dBackward {
    values: op; buffers: d_output, argmax, d_input; optional: ; parts: epilogue;
    reads: d_output, argmax +; writes: d_input +
});

impl<B: Copy> Operands<B> for MaxPool2dBackward<B> {
    fn describe(&self) -> String {
        GradientEpilogue::describe("gradient of max pooling", self.epilogue.as_ref())
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        len(self.d_output)
    }
}

impl Layer for AvgPool2d {
    type Forward<B> = AvgPool2dForward<B>;
    type Backward<B> = AvgPool2dBackward<B>;

    fn name(&self) -> &'static str {
        "avgpool"
    }

    fn output(&self) -> Result<Shape> {
        pooled(self.input, self.window, self.ceil_mode)
    }

    fn window(&self) -> Option<Window> {
        Some(self.window)
    }

    fn describe_layer(&self) -> String {
        format!("average pool {}", describe_pooling(self.window, self.ceil_mode))
    }

    fn forward<B>(self, input: B, output: B) -> AvgPool2dForward<B> {
        Forward { op: self, input, output }
    }

    fn backward<B>(self, values: LayerValues<B>) -> AvgPool2dBackward<B> {
        Backward { op: self, d_output: values.d_output, d_input: values.d_input }
    }
}

impl Layer for AdaptiveAvgPool2d {
    type Forward<B> = AdaptiveAvgPool2dForward<B>;
    type Backward<B> = AdaptiveAvgPool2dBackward<B>;

    fn name(&self) -> &'static str {
        "avgpool"
    }

    fn output(&self) -> Result<Shape> {
        let Self { input, height, width } = *self;
        ensure!(height > 0 && width > 0, "adaptive pooling needs an output of at least one pixel");
        Ok(Shape::new(height, width, input.channels))
    }

    /// Of several sizes the largest.
    fn window(&self) -> Option<Window> {
        let widest = |inputs, outputs| {
            (0..outputs).map(|index| adaptive_window(index, inputs, outputs).len()).max().unwrap_or(0)
        };
        let (tall, wide) = (widest(self.input.height, self.height), widest(self.input.width, self.width));
        let stride = (self.input.height / self.height).max(self.input.width / self.width).max(1);
        Some(Window { kernel: tall.max(wide), stride, padding: 0 })
    }

    fn describe_layer(&self) -> String {
        format!("average pool to {}×{}", self.height, self.width)
    }

    fn forward<B>(self, input: B, output: B) -> AdaptiveAvgPool2dForward<B> {
        Forward { op: self, input, output }
    }

    fn backward<B>(self, values: LayerValues<B>) -> AdaptiveAvgPool2dBackward<B> {
        Backward { op: self, d_output: values.d_output, d_input: values.d_input }
    }
}

/// A window for people, such as `2×2 stride 1`.
pub(crate) fn describe_window(window: Window, usual_stride: usize) -> String {
    let Window { kernel, stride, padding } = window;
    let mut text = format!("{kernel}×{kernel}");
    if stride != usual_stride {
        text += &format!(" stride {stride}");
    }
    if padding > 0 {
        text += &format!(" padding {padding}");
    }
    text
}

/// The same of a pooling.
pub(crate) fn describe_pooling(window: Window, ceil_mode: bool) -> String {
    describe_window(window, window.kernel) + if ceil_mode { " rounded up" } else { "" }
}

impl Unary for AvgPool2d {
    fn describe(&self) -> String {
        "average pooling".into()
    }

    fn flops(&self, _inputs: usize, outputs: usize) -> usize {
        self.window.kernel.pow(2) * outputs
    }
}

impl Unary for AdaptiveAvgPool2d {
    fn describe(&self) -> String {
        "adaptive average pooling".into()
    }

    fn flops(&self, inputs: usize, _outputs: usize) -> usize {
        inputs
    }
}

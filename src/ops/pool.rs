//! Max, average and adaptive average pooling (`torch.nn.MaxPool2d`, `AvgPool2d`, `AdaptiveAvgPool2d`).

use anyhow::{Context, Result, ensure};

use super::bias::GradientEpilogue;
use super::operands::{Layer, operator};
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
    /// Values that the mean at output `(y, x)` divides by.
    pub fn divisor(&self, y: usize, x: usize) -> f32 {
        let Window { kernel, stride, padding } = self.window;
        let along = |index: usize, size: usize| kernel.min(size + 2 * padding - index * stride);
        (along(y, self.input.height) * along(x, self.input.width)) as f32
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

operator! {
    /// Max pooling that ends a convolution; the convolution's output is its input.
    pub struct PoolEpilogue {
        value op: MaxPool2d,
        writes output: B,
        /// As in [`MaxPool2dForward`].
        writes argmax: Option<B>,
    }
}

operator! {
    /// The maxima of all windows.
    pub struct MaxPool2dForward {
        value op: MaxPool2d,
        reads input: B,
        writes output: B,
        /// In [`Region::Indices`](super::Region::Indices), receives for every output `y · width + x` of the maximum within
        /// its sample; `None` where no backward pass follows.
        writes argmax: Option<B>,
    }
    describe(self) { "max pooling".into() }
    flops(self, len) { self.op.window.kernel.pow(2) * len(self.output) }
}

operator! {
    /// Each input receives the sum of the gradients of the windows whose maximum it was, each taken back through the
    /// epilogue's activation, of which the epilogue's bias gradient is the sum per channel.
    pub struct MaxPool2dBackward {
        value op: MaxPool2d,
        /// With an epilogue, what is in it afterwards is up to the backend.
        reads d_output: B,
        reads argmax: B,
        writes d_input: B,
        /// Of the layer before. Its `output` is the pooling's own: a maximum has the sign of the input that it is, and all
        /// other inputs have no gradient.
        part epilogue: Option<GradientEpilogue<B>>,
    }
    describe(self) { GradientEpilogue::describe("gradient of max pooling", self.epilogue.as_ref()) }
    flops(self, len) { len(self.d_output) }
}

operator! {
    /// The means of all windows.
    pub struct AvgPool2dForward {
        value op: AvgPool2d,
        reads input: B,
        writes output: B,
    }
    describe(self) { "average pooling".into() }
    flops(self, len) { self.op.window.kernel.pow(2) * len(self.output) }
}

operator! {
    /// Every input receives its share of the gradients of the means that it is in.
    pub struct AvgPool2dBackward {
        value op: AvgPool2d,
        reads d_output: B,
        writes d_input: B,
    }
    describe(self) { "gradient of average pooling".into() }
    flops(self, len) { self.op.window.kernel.pow(2) * len(self.d_output) }
}

operator! {
    /// The means of all windows.
    pub struct AdaptiveAvgPool2dForward {
        value op: AdaptiveAvgPool2d,
        reads input: B,
        writes output: B,
    }
    describe(self) { "adaptive average pooling".into() }
    flops(self, len) { len(self.input) }
}

operator! {
    /// Every input receives its share of the gradients of the means that it is in.
    pub struct AdaptiveAvgPool2dBackward {
        value op: AdaptiveAvgPool2d,
        reads d_output: B,
        writes d_input: B,
    }
    describe(self) { "gradient of adaptive average pooling".into() }
    flops(self, len) { len(self.d_input) }
}

impl Layer for AvgPool2d {
    fn name(&self) -> &'static str {
        "avgpool"
    }

    fn output(&self) -> Result<Shape> {
        pooled(self.input, self.window, self.ceil_mode)
    }

    fn window(&self) -> Option<Window> {
        Some(self.window)
    }

    fn describe(&self) -> String {
        format!("average pool {}", describe_pooling(self.window, self.ceil_mode))
    }
}

impl Layer for AdaptiveAvgPool2d {
    fn name(&self) -> &'static str {
        "avgpool"
    }

    fn output(&self) -> Result<Shape> {
        ensure!(self.height > 0 && self.width > 0, "adaptive pooling needs an output of at least one pixel");
        Ok(Shape::new(self.height, self.width, self.input.channels))
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

    fn describe(&self) -> String {
        format!("average pool to {}×{}", self.height, self.width)
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

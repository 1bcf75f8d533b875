//! Max, average and adaptive average pooling (`torch.nn.MaxPool2d`, `AvgPool2d`, `AdaptiveAvgPool2d`).

use anyhow::{Context, Result, ensure};

use super::bias::GradientEpilogue;
use super::operands::{Layer, operator};
use crate::shape::{Shape, Window, adaptive_window};

/// Max pooling. Padding is never the maximum; the first of equal maxima in scan order is chosen; NaN is propagated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool2d {
    pub input: Shape,
    pub window: Window,
    /// Whether the last window may extend beyond the padding; see [`Window::positions_rounded_up`].
    pub ceil_mode: bool,
}

/// Average pooling over the whole window including padding (PyTorch's `count_include_pad=True`). The part of a window
/// beyond the padding does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvgPool2d {
    pub input: Shape,
    pub window: Window,
    /// See [`MaxPool2d::ceil_mode`].
    pub ceil_mode: bool,
}

/// Average pooling to a given height and width; see [`crate::shape::adaptive_window`] for the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdaptiveAvgPool2d {
    pub input: Shape,
    pub height: usize,
    pub width: usize,
}

impl MaxPool2d {
    /// # Errors
    /// If the window does not fit, or the padding is more than half of it (a window could then contain only padding).
    pub fn output(&self) -> Result<Shape> {
        pooled(self.input, self.window, self.ceil_mode)
    }
}

impl AvgPool2d {
    /// The divisor of the mean at output `(y, x)`.
    pub fn divisor(&self, y: usize, x: usize) -> f32 {
        let Window { kernel, stride, padding } = self.window;
        let along = |index: usize, size: usize| kernel.min(size + 2 * padding - index * stride);
        (along(y, self.input.height) * along(x, self.input.width)) as f32
    }
}

fn pooled(input: Shape, window: Window, ceil_mode: bool) -> Result<Shape> {
    ensure!(
        window.padding <= window.kernel / 2,
        "the pooling's padding {} is more than half of its kernel size {}",
        window.padding,
        window.kernel
    );
    let along = |size| if ceil_mode { window.positions_rounded_up(size) } else { window.positions(size) };
    let sizes = along(input.height).and_then(|height| Ok((height, along(input.width)?)));
    let (height, width) = sizes.with_context(|| format!("pooling over {input}"))?;
    Ok(Shape::new(height, width, input.channels))
}

operator! {
    /// Max pooling fused into a convolution, whose output is the pooling's input.
    pub struct PoolEpilogue {
        value op: MaxPool2d,
        writes output: B,
        /// See [`MaxPool2dForward`].
        writes argmax: Option<B>,
    }
}

operator! {
    /// The maximum of each window.
    pub struct MaxPool2dForward {
        value op: MaxPool2d,
        reads input: B,
        writes output: B,
        /// For every output, the position `y · width + x` of the maximum within its sample, in
        /// [`Region::Indices`](super::Region::Indices); `None` if no backward pass follows.
        writes argmax: Option<B>,
    }
    describe(self) { "max pooling".into() }
    flops(self, len) { self.op.window.kernel.pow(2) * len(self.output) }
}

operator! {
    /// Each input receives the sum of the gradients of the windows in which it was the maximum. The epilogue multiplies
    /// each gradient by the activation's derivative and sums them per channel into the bias gradient.
    pub struct MaxPool2dBackward {
        value op: MaxPool2d,
        /// Its contents are unspecified afterwards if there is an epilogue.
        reads d_output: B,
        reads argmax: B,
        writes d_input: B,
        /// The epilogue for the layer before the pooling. Its `output` is the pooling's: a maximum equals the input
        /// that it was taken from, and all other inputs have no gradient.
        part epilogue: Option<GradientEpilogue<B>>,
    }
    describe(self) { GradientEpilogue::describe("gradient of max pooling", self.epilogue.as_ref()) }
    flops(self, len) { len(self.d_output) }
}

operator! {
    /// The mean of each window.
    pub struct AvgPool2dForward {
        value op: AvgPool2d,
        reads input: B,
        writes output: B,
    }
    describe(self) { "average pooling".into() }
    flops(self, len) { self.op.window.kernel.pow(2) * len(self.output) }
}

operator! {
    /// Every input receives its share of the gradients of all windows that contain it.
    pub struct AvgPool2dBackward {
        value op: AvgPool2d,
        reads d_output: B,
        writes d_input: B,
    }
    describe(self) { "gradient of average pooling".into() }
    flops(self, len) { self.op.window.kernel.pow(2) * len(self.d_output) }
}

operator! {
    /// The mean of each window.
    pub struct AdaptiveAvgPool2dForward {
        value op: AdaptiveAvgPool2d,
        reads input: B,
        writes output: B,
    }
    describe(self) { "adaptive average pooling".into() }
    flops(self, len) { len(self.input) }
}

operator! {
    /// Every input receives its share of the gradients of all windows that contain it.
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

    /// The largest of the windows, if they differ in size.
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

/// A window for display, such as `2×2 stride 1`.
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

/// A pooling window for display, such as `3×3 stride 2 rounded up`.
pub(crate) fn describe_pooling(window: Window, ceil_mode: bool) -> String {
    describe_window(window, window.kernel) + if ceil_mode { " rounded up" } else { "" }
}

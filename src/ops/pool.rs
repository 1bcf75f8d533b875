//! Max and average pooling (`torch.nn.MaxPool2d`, `torch.nn.AvgPool2d`).

use anyhow::{Context, Result, ensure};

use super::Span;
use crate::shape::{Shape, Window};

/// Max pooling. Padding never wins; of equal maxima the first in scan order does; NaN wins over everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool2d {
    pub input: Shape,
    pub window: Window,
}

/// Average pooling over the whole window, padding included (PyTorch's `count_include_pad=True`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvgPool2d {
    pub input: Shape,
    pub window: Window,
}

impl MaxPool2d {
    /// # Errors
    /// Where the window does not fit, or the padding is more than half of it (a window could then hold padding alone).
    pub fn output(&self) -> Result<Shape> {
        pooled(self.input, self.window)
    }
}

impl AvgPool2d {
    /// # Errors
    /// As [`MaxPool2d::output`].
    pub fn output(&self) -> Result<Shape> {
        pooled(self.input, self.window)
    }
}

fn pooled(input: Shape, window: Window) -> Result<Shape> {
    ensure!(
        window.padding <= window.kernel / 2,
        "pooling's padding {} is more than half of its kernel {}",
        window.padding,
        window.kernel
    );
    let (height, width) = window.output(input).with_context(|| format!("pooling over {input}"))?;
    Ok(Shape::new(height, width, input.channels))
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

    /// Each input receives the sum of the gradients of the windows whose maximum it was.
    fn max_pool2d_backward(
        &mut self,
        op: &MaxPool2d,
        batch: usize,
        d_output: Span,
        argmax: Span,
        d_input: Span,
    ) -> Result<()>;

    fn avg_pool2d_forward(&mut self, op: &AvgPool2d, batch: usize, input: Span, output: Span) -> Result<()>;

    fn avg_pool2d_backward(&mut self, op: &AvgPool2d, batch: usize, d_output: Span, d_input: Span) -> Result<()>;
}

//! Two-dimensional convolution (`torch.nn.Conv2d`, a cross-correlation), as im2col and a matrix product.

use anyhow::{Context, Result, ensure};

use super::Activation;
use super::bias::{GradientEpilogue, ended};
use super::operands::operator;
use super::pool::PoolEpilogue;
use crate::shape::{Shape, Window};

/// A convolution over one input shape. Weights are `[out_channels][kernel][kernel][in_channels / groups]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    pub input: Shape,
    pub out_channels: usize,
    pub window: Window,
    /// Input and output channels are cut into as many parts, each of which sees its own alone.
    pub groups: usize,
    /// Pixels from one value of the kernel to the next.
    pub dilation: usize,
}

impl Conv2d {
    /// Without groups and dilation.
    pub const fn new(input: Shape, out_channels: usize, window: Window) -> Self {
        Self { input, out_channels, window, groups: 1, dilation: 1 }
    }

    /// `[out_height][out_width][out_channels]`
    ///
    /// # Errors
    /// Where the window does not fit the input, or the channels cannot be cut into the groups.
    pub fn output(&self) -> Result<Shape> {
        let Self { input, out_channels, groups, dilation, .. } = *self;
        ensure!(groups > 0 && dilation > 0, "groups and dilation must be at least 1");
        ensure!(
            input.channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
            "{} input and {out_channels} output channels cannot be cut into {groups} groups",
            input.channels
        );
        let window = self.covered_window();
        let (height, width) = window.output(input).with_context(|| format!("convolution over {input}"))?;
        Ok(Shape::new(height, width, self.out_channels))
    }

    /// The window with all that it reaches over, gaps included.
    pub fn covered_window(&self) -> Window {
        Window {
            kernel: self.dilation * self.window.kernel.saturating_sub(1) + self.window.kernel.min(1),
            ..self.window
        }
    }

    /// Whether every output sees all channels, without gaps.
    pub fn is_plain(&self) -> bool {
        self.groups == 1 && self.dilation == 1
    }

    /// Length of an im2col row, `kernel · kernel · in_channels / groups`: the inner dimension of the forward product, and
    /// PyTorch's `fan_in`.
    pub fn patch_len(&self) -> usize {
        self.window.kernel * self.window.kernel * self.input.channels / self.groups
    }

    pub fn weight_len(&self) -> usize {
        self.out_channels * self.patch_len()
    }

    /// Whether the columns are the input itself: a 1×1 kernel that skips nothing. (Stride and padding count: a
    /// strided 1×1 convolution still has to gather.)
    pub fn is_pointwise(&self) -> bool {
        self.groups == 1 && self.window == Window { kernel: 1, stride: 1, padding: 0 }
    }
}

operator! {
    /// A forward pass: `output = activation(columns · Wᵀ + bias)`, then pooled where that is asked for. `columns` is the
    /// im2col of the input, `[batch·oh·ow, patch_len]`.
    pub struct Conv2dForward {
        value op: Conv2d,
        value activation: Activation,
        /// `[batch][height][width][in_channels]`
        reads input: B,
        reads weight: B,
        /// `[out_channels]`
        reads bias: Option<B>,
        /// With `pool`, what is in it afterwards is up to the backend.
        writes output: B,
        /// Max pooling of the output, where nothing else reads that.
        part pool: Option<PoolEpilogue<B>>,
    }
    describe(self) {
        let text = ended("convolution", self.bias.is_some(), self.activation);
        if self.pool.is_some() { text + " + max pooling" } else { text }
    }
    flops(self, len) { 2 * len(self.output) * self.op.patch_len() }
}

operator! {
    /// The weight gradient, `d_weight = d_outputᵀ · columns`: written, not accumulated; summed over the batch in a fixed
    /// order.
    pub struct Conv2dBackwardWeight {
        value op: Conv2d,
        reads input: B,
        reads d_output: B,
        writes d_weight: B,
    }
    describe(self) { "weight gradient".into() }
    flops(self, len) { 2 * len(self.d_output) * self.op.patch_len() }
}

operator! {
    /// The input gradient, `d_input = col2im(d_output · W)`, then its epilogue.
    pub struct Conv2dBackwardInput {
        value op: Conv2d,
        reads d_output: B,
        reads weight: B,
        writes d_input: B,
        /// On `d_input`, `[batch·height·width][in_channels]`.
        part epilogue: Option<GradientEpilogue<B>>,
    }
    describe(self) { GradientEpilogue::describe("input gradient", self.epilogue.as_ref()) }
    flops(self, len) { 2 * len(self.d_output) * self.op.patch_len() }
}

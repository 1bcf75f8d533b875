//! Two-dimensional convolution (`torch.nn.Conv2d`, a cross-correlation), defined as im2col and a matrix product.

use anyhow::{Context, Result, ensure};

use super::Activation;
use super::bias::{GradientEpilogue, describe_fused};
use super::norm::{NormEpilogue, StatisticsEpilogue};
use super::operands::operator;
use super::pool::PoolEpilogue;
use crate::shape::{Shape, Window};

/// A convolution over one input shape. Weights are `[out_channels][kernel][kernel][in_channels / groups]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    pub input: Shape,
    pub out_channels: usize,
    pub window: Window,
    /// Input and output channels are split into this many groups; an output sees only the inputs of its group.
    pub groups: usize,
    /// Distance between neighbouring kernel elements, in pixels.
    pub dilation: usize,
}

impl Conv2d {
    /// A convolution without groups or dilation.
    pub const fn new(input: Shape, out_channels: usize, window: Window) -> Self {
        Self { input, out_channels, window, groups: 1, dilation: 1 }
    }

    /// `[out_height][out_width][out_channels]`
    ///
    /// # Errors
    /// If the window does not fit the input, or `groups` does not divide the channels.
    pub fn output(&self) -> Result<Shape> {
        let Self { input, out_channels, groups, dilation, .. } = *self;
        ensure!(groups > 0 && dilation > 0, "groups and dilation must be at least 1");
        ensure!(
            input.channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
            "{} input and {out_channels} output channels cannot be split into {groups} groups",
            input.channels
        );
        let window = self.dilated_window();
        let (height, width) = window.output(input).with_context(|| format!("convolution over {input}"))?;
        Ok(Shape::new(height, width, self.out_channels))
    }

    /// The window with its dilated extent as kernel size, `dilation · (kernel − 1) + 1`.
    pub fn dilated_window(&self) -> Window {
        Window {
            kernel: self.dilation * self.window.kernel.saturating_sub(1) + self.window.kernel.min(1),
            ..self.window
        }
    }

    /// Whether there are no groups and no dilation.
    pub fn is_plain(&self) -> bool {
        self.groups == 1 && self.dilation == 1
    }

    /// Length of an im2col row, `kernel · kernel · in_channels / groups`: the inner dimension of the forward product,
    /// and PyTorch's `fan_in`.
    pub fn patch_len(&self) -> usize {
        self.window.kernel * self.window.kernel * self.input.channels / self.groups
    }

    pub fn weight_len(&self) -> usize {
        self.out_channels * self.patch_len()
    }

    /// Whether the im2col matrix is the input itself: a 1×1 kernel without stride and padding. (A strided 1×1
    /// convolution still has to gather pixels.)
    pub fn is_pointwise(&self) -> bool {
        self.groups == 1 && self.window == Window { kernel: 1, stride: 1, padding: 0 }
    }
}

operator! {
    /// The forward pass, `output = activation(columns · Wᵀ + bias + residual)`, optionally with max pooling. `columns` is
    /// the im2col of the input, `[batch·oh·ow, patch_len]`.
    pub struct Conv2dForward {
        value op: Conv2d,
        value activation: Activation,
        /// `[batch][height][width][in_channels]`
        reads input: B,
        reads weight: B,
        /// `[out_channels]`
        reads bias: Option<B>,
        /// A residual of the output's shape, added before the activation; it may be the input. Only without `pool` and
        /// `statistics`.
        reads residual: Option<B>,
        /// Its contents are unspecified with `pool`.
        writes output: B,
        /// Max pooling of the output, if nothing else reads the output.
        part pool: Option<PoolEpilogue<B>>,
        /// The statistics of a batch normalisation of the output; not with `pool`.
        part statistics: Option<StatisticsEpilogue<B>>,
    }
    describe(self) {
        let convolution = if self.bias.is_some() { "convolution + bias" } else { "convolution" };
        let sum = if self.residual.is_some() { " + sum" } else { "" };
        let text = describe_fused(&format!("{convolution}{sum}"), false, self.activation);
        match (self.pool, self.statistics) {
            (Some(_), _) => text + " + max pooling",
            (None, Some(_)) => text + " + statistics",
            (None, None) => text,
        }
    }
    flops(self, len) { 2 * len(self.output) * self.op.patch_len() }
}

operator! {
    /// The weight gradient, `d_weight = d_outputᵀ · columns`: written, not accumulated, and summed over the batch in a
    /// fixed order.
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
    /// The input gradient, `d_input = col2im(d_output · W) + added`, then one of two epilogues.
    pub struct Conv2dBackwardInput {
        value op: Conv2d,
        reads d_output: B,
        reads weight: B,
        writes d_input: B,
        /// What other operators have contributed to the gradient; only without `epilogue`.
        reads added: Option<B>,
        /// Applied to `d_input` as `[batch·height·width][in_channels]`.
        part epilogue: Option<GradientEpilogue<B>>,
        /// The same for a batch normalisation.
        part norm: Option<NormEpilogue<B>>,
    }
    describe(self) {
        let product = if self.added.is_some() { "input gradient + added" } else { "input gradient" };
        match &self.norm {
            Some(norm) => describe_fused(product, false, norm.activation) + " + sums of batch norm's gradient",
            None => GradientEpilogue::describe(product, self.epilogue.as_ref()),
        }
    }
    flops(self, len) { 2 * len(self.d_output) * self.op.patch_len() }
}

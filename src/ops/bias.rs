//! The backward pass of the bias and activation that end a convolution or a linear layer.

use anyhow::Result;

use super::{Activation, Span};

/// What an operator that computes the gradient of a layer's output does to it on the way: it goes back through that
/// layer's activation and sums that layer's bias gradient. `Buffer` is a [`Span`], or in a plan the buffer's number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientEpilogue<Buffer = Span> {
    pub activation: Activation,
    /// The layer's output, whose sign tells the activation's derivative.
    pub output: Buffer,
    /// What the layer's forward pass may have kept of those signs, where the layer and its reader are linear.
    pub signs: Option<Buffer>,
    /// Column sums of the finished gradient. Where there are `signs`, the layer's own weight gradient follows and names them
    /// too: a backend may leave them to it.
    pub d_bias: Option<Span>,
}

impl<Buffer> GradientEpilogue<Buffer> {
    /// The same with the buffer named differently.
    pub fn map<Other>(self, name: impl Fn(Buffer) -> Other) -> GradientEpilogue<Other> {
        let Self { activation, output, signs, d_bias } = self;
        GradientEpilogue { activation, output: name(output), signs: signs.map(name), d_bias }
    }

    /// The buffers that it reads.
    pub fn reads(self) -> impl Iterator<Item = Buffer> {
        std::iter::once(self.output).chain(self.signs)
    }
}

/// Bias gradients, fused with the activation in front of them.
pub trait BiasOps {
    /// Turns the gradient of the activation's output into that of its input, in place, and sums it into the bias
    /// gradient: `d_output *= activation′(output)`, then `d_bias[c] = Σ_rows d_output[row][c]` in a fixed order.
    ///
    /// `output` and `d_output` are `[rows][channels]`. Without a bias only the first half is done.
    fn bias_activation_backward(
        &mut self,
        activation: Activation,
        rows: usize,
        channels: usize,
        output: Span,
        d_output: Span,
        d_bias: Option<Span>,
    ) -> Result<()>;

    /// Does an epilogue's work in a pass of its own, for operators that have no fused one: `d_input` is
    /// `[rows][channels]`.
    fn gradient_epilogue(
        &mut self,
        rows: usize,
        channels: usize,
        d_input: Span,
        epilogue: Option<GradientEpilogue>,
    ) -> Result<()> {
        let Some(GradientEpilogue { activation, output, d_bias, .. }) = epilogue else { return Ok(()) };
        self.bias_activation_backward(activation, rows, channels, output, d_input, d_bias)
    }
}

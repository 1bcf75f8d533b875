//! The backward pass of the bias and activation that end a convolution or a linear layer.

use anyhow::Result;

use super::{Activation, Span};

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
}

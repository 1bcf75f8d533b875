//! The backward pass of the bias and activation that end a convolution or a linear layer.

use super::Activation;
use super::operands::operator;

operator! {
    /// The epilogue of an operator that computes the gradient of a layer's output: backpropagate it through that
    /// layer's activation, and sum that layer's bias gradient.
    pub struct GradientEpilogue {
        value activation: Activation,
        /// The layer's output, which determines the activation's derivative.
        reads output: B,
        /// The mask of positive outputs that the layer's forward pass may have saved; only between two linear layers.
        reads relu_mask: Option<B>,
        /// Column sums of the finished gradient. If there is a `relu_mask`, the layer's weight gradient follows and
        /// also writes `d_bias`: a backend may then leave the sums to that operator.
        writes d_bias: Option<B>,
    }
}

impl<B> GradientEpilogue<B> {
    /// `what` followed by a description of its epilogue.
    pub fn describe(what: &str, epilogue: Option<&Self>) -> String {
        let Some(Self { activation, d_bias, .. }) = epilogue else { return what.to_string() };
        describe_fused(what, false, *activation) + if d_bias.is_some() { " + bias gradient" } else { "" }
    }
}

/// `what` followed by the bias and activation fused into it.
pub(super) fn describe_fused(what: &str, bias: bool, activation: Activation) -> String {
    let text = format!("{what}{}", if bias { " + bias" } else { "" });
    if activation == Activation::Identity { text } else { format!("{text} + {activation}") }
}

operator! {
    /// The gradients of an activation, in place, and of the bias before it: `d_output *= activation′(output)`, then
    /// `d_bias[c] = Σ_rows d_output[row][c]` in a fixed order. Without a bias, only the first part.
    pub struct BiasActivationBackward {
        value activation: Activation,
        value channels: usize,
        /// `[rows][channels]`
        reads output: B,
        /// `[rows][channels]`
        updates d_output: B,
        /// `[channels]`
        writes d_bias: Option<B>,
    }
    describe(self) {
        match (self.activation, self.d_bias) {
            (Activation::Identity, _) => "bias gradient".into(),
            (activation, None) => format!("gradient of {activation}"),
            (activation, Some(_)) => format!("gradient of {activation} + bias gradient"),
        }
    }
    flops(self, len) { 2 * len(self.d_output) }
}

impl<B> BiasActivationBackward<B> {
    /// An epilogue as a separate pass over `d_input`, `[rows][channels]`.
    pub fn of_epilogue(channels: usize, d_input: B, epilogue: GradientEpilogue<B>) -> Self {
        let GradientEpilogue { activation, output, d_bias, .. } = epilogue;
        Self { activation, channels, output, d_output: d_input, d_bias }
    }
}

//! The backward pass of the bias and activation that end a convolution or a linear layer.

use super::Activation;
use super::operands::operator;

operator! {
    /// What an operator that computes the gradient of a layer's output does to it next: it takes the gradient back through
    /// that layer's activation and sums that layer's bias gradient.
    pub struct GradientEpilogue {
        value activation: Activation,
        /// The layer's output, whose sign gives the activation's derivative.
        reads output: B,
        /// What the layer's forward pass may have kept of those signs, where the layer and its reader are linear.
        reads relu_mask: Option<B>,
        /// Column sums of the finished gradient. Where there is a `relu_mask`, the layer's own weight gradient follows and
        /// names them too: a backend may leave them to it.
        writes d_bias: Option<B>,
    }
}

impl<B> GradientEpilogue<B> {
    /// `what`, with the epilogue behind it.
    pub fn describe(what: &str, epilogue: Option<&Self>) -> String {
        let Some(Self { activation, d_bias, .. }) = epilogue else { return what.to_string() };
        ended(what, false, *activation) + if d_bias.is_some() { " + bias gradient" } else { "" }
    }
}

/// `what` in words, with the bias and activation that end it.
pub(super) fn ended(what: &str, bias: bool, activation: Activation) -> String {
    let text = format!("{what}{}", if bias { " + bias" } else { "" });
    if activation == Activation::Identity { text } else { format!("{text} + {activation}") }
}

operator! {
    /// Turns the gradient of the activation's output into that of its input, in place, and sums it into the bias gradient:
    /// `d_output *= activation′(output)`, then `d_bias[c] = Σ_rows d_output[row][c]` in a fixed order. Without a bias only
    /// the first half is done.
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
    /// An epilogue's work in a pass of its own: `d_input` is `[rows][channels]`.
    pub fn of_epilogue(channels: usize, d_input: B, epilogue: GradientEpilogue<B>) -> Self {
        let GradientEpilogue { activation, output, d_bias, .. } = epilogue;
        Self { activation, channels, output, d_output: d_input, d_bias }
    }
}

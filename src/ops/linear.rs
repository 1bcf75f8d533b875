//! The fully connected layer (`torch.nn.Linear`).

use super::Activation;
use super::bias::{GradientEpilogue, describe_fused};
use super::operands::operator;

/// A linear layer. Weights are `[out_features][in_features]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    pub in_features: usize,
    pub out_features: usize,
}

impl Linear {
    pub fn weight_len(&self) -> usize {
        self.in_features * self.out_features
    }

    /// 32-bit words of one sample's ReLU mask: one bit per output, rounded up to 128 bits.
    pub fn relu_mask_len(&self) -> usize {
        self.out_features.next_multiple_of(128) / 32
    }
}

operator! {
    /// The forward pass, `output = activation(input · Wᵀ + bias)`: `[batch, in] · [in, out] → [batch, out]`
    pub struct LinearForward {
        value op: Linear,
        value activation: Activation,
        reads input: B,
        reads weight: B,
        /// `[out_features]`
        reads bias: Option<B>,
        writes output: B,
        /// A backend may save a mask of the positive outputs here for the layer's [`GradientEpilogue`]. It has
        /// [`Linear::relu_mask_len`] words per sample, in [`Region::Indices`](super::Region::Indices).
        writes relu_mask: Option<B>,
    }
    describe(self) { describe_fused("product", self.bias.is_some(), self.activation) }
    flops(self, len) { 2 * len(self.output) * self.op.in_features }
}

operator! {
    /// The weight gradient, `d_weight = d_outputᵀ · input`: `[out, batch] · [batch, in] → [out, in]`, written, not
    /// accumulated.
    pub struct LinearBackwardWeight {
        value op: Linear,
        reads input: B,
        reads d_output: B,
        writes d_weight: B,
        /// The layer's bias gradient, if an earlier operator's epilogue may leave it to this one: see
        /// [`GradientEpilogue`].
        writes d_bias: Option<B>,
    }
    describe(self) { "weight gradient".into() }
    flops(self, len) { 2 * len(self.d_output) * self.op.in_features }
}

operator! {
    /// The input gradient, `d_input = d_output · W`: `[batch, out] · [out, in] → [batch, in]`, then its epilogue.
    pub struct LinearBackwardInput {
        value op: Linear,
        reads d_output: B,
        reads weight: B,
        writes d_input: B,
        /// Applied to `d_input`, `[batch][in]`.
        part epilogue: Option<GradientEpilogue<B>>,
    }
    describe(self) { GradientEpilogue::describe("input gradient", self.epilogue.as_ref()) }
    flops(self, len) { 2 * len(self.d_output) * self.op.in_features }
}

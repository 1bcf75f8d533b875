//! The fully connected layer (`torch.nn.Linear`).

use super::bias::{GradientEpilogue, ended};
use super::operands::{Operands, operands};
use super::{Activation, Span};

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

    /// Words that a mask of one sample's outputs takes: a bit each, in whole groups of 128.
    pub fn relu_mask_len(&self) -> usize {
        self.out_features.next_multiple_of(128) / 32
    }
}

/// A forward pass, `output = activation(input · Wᵀ + bias)`: `[batch, in] · [in, out] → [batch, out]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearForward<B = Span> {
    pub op: Linear,
    pub activation: Activation,
    pub input: B,
    pub weight: B,
    /// `[out_features]`
    pub bias: Option<B>,
    pub output: B,
    /// Room for what a backend may keep of a ReLU besides the output, for the layer's [`GradientEpilogue`]: which of the
    /// outputs are positive, `[batch]` times [`Linear::relu_mask_len`] words of
    /// [`Region::Indices`](super::Region::Indices).
    pub relu_mask: Option<B>,
}

/// The weight gradient, `d_weight = d_outputᵀ · input`: `[out, batch] · [batch, in] → [out, in]`, written, not accumulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearBackwardWeight<B = Span> {
    pub op: Linear,
    pub input: B,
    pub d_output: B,
    pub d_weight: B,
    /// The layer's bias gradient, where the epilogue of an earlier operator that computes it may leave it to this one:
    /// see [`GradientEpilogue`].
    pub d_bias: Option<B>,
}

/// The input gradient, `d_input = d_output · W`: `[batch, out] · [out, in] → [batch, in]`, then its epilogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearBackwardInput<B = Span> {
    pub op: Linear,
    pub d_output: B,
    pub weight: B,
    pub d_input: B,
    /// On `d_input`, `[batch][in]`.
    pub epilogue: Option<GradientEpilogue<B>>,
}

operands!(LinearForward {
    values: op, activation; buffers: input, weight, output; optional: bias, relu_mask; parts: ;
    reads: input, weight + bias; writes: output + relu_mask
});

impl<B: Copy> Operands<B> for LinearForward<B> {
    fn describe(&self) -> String {
        ended("product", self.bias.is_some(), self.activation)
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        2 * len(self.output) * self.op.in_features
    }
}

operands!(LinearBackwardWeight {
    values: op; buffers: input, d_output, d_weight; optional: d_bias; parts: ;
    reads: input, d_output +; writes: d_weight + d_bias
});

impl<B: Copy> Operands<B> for LinearBackwardWeight<B> {
    fn describe(&self) -> String {
        "weight gradient".into()
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        2 * len(self.d_output) * self.op.in_features
    }
}

operands!(LinearBackwardInput {
    values: op; buffers: d_output, weight, d_input; optional: ; parts: epilogue;
    reads: d_output, weight +; writes: d_input +
});

impl<B: Copy> Operands<B> for LinearBackwardInput<B> {
    fn describe(&self) -> String {
        GradientEpilogue::describe("input gradient", self.epilogue.as_ref())
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        2 * len(self.d_output) * self.op.in_features
    }
}

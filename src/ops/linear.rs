//! The fully connected layer (`torch.nn.Linear`).

use anyhow::Result;

use super::{Activation, GradientEpilogue, Span};

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

    /// Words that the signs of one sample's outputs take: a bit each, in whole groups of 128.
    pub fn signs_len(&self) -> usize {
        self.out_features.next_multiple_of(128) / 32
    }
}

/// Spans of a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct LinearForward {
    pub input: Span,
    pub weight: Span,
    /// `[out_features]`
    pub bias: Option<Span>,
    pub activation: Activation,
    pub output: Span,
    /// Room for what a backend may keep of a ReLU besides the output, for the layer's [`GradientEpilogue`]: which of the
    /// outputs are positive, `[batch]` times [`Linear::signs_len`] words of [`Region::Indices`](super::Region::Indices).
    pub signs: Option<Span>,
}

/// Spans of the weight gradient.
#[derive(Clone, Copy, Debug)]
pub struct LinearBackwardWeight {
    pub input: Span,
    pub d_output: Span,
    pub d_weight: Span,
    /// The layer's bias gradient, where the epilogue of an earlier operator is asked for it that may leave it to this one:
    /// see [`GradientEpilogue`].
    pub d_bias: Option<Span>,
}

/// Spans of the input gradient.
#[derive(Clone, Copy, Debug)]
pub struct LinearBackwardInput {
    pub d_output: Span,
    pub weight: Span,
    pub d_input: Span,
    /// On `d_input`, `[batch][in]`.
    pub epilogue: Option<GradientEpilogue>,
}

/// The linear layer, forward and backward.
pub trait LinearOps {
    /// `output = activation(input · Wᵀ + bias)`: `[batch, in] · [in, out] → [batch, out]`
    fn linear_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward) -> Result<()>;

    /// `d_weight = d_outputᵀ · input`: `[out, batch] · [batch, in] → [out, in]`, written, not accumulated. It is
    /// there after the next [`join`](super::Backend::join).
    fn linear_backward_weight(&mut self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<()>;

    /// `d_input = d_output · W`: `[batch, out] · [out, in] → [batch, in]`, then its epilogue.
    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()>;
}

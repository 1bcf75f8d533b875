//! The steps of a plan: operators with the buffers they read and write.

use super::ValueId;
use crate::ops::{Activation, AvgPool2d, ChannelCopy, Conv2d, GradientEpilogue, Linear, MaxPool2d, PoolEpilogue, Span};

/// One call of a backend.
#[derive(Clone, Debug)]
pub struct Step {
    /// The node and what is done for it, such as `layer1.0 forward`.
    pub label: String,
    pub kind: StepKind,
}

/// Lengths are per sample. Parameters and their gradients have fixed places; everything else is a buffer of the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum StepKind {
    Conv2dForward {
        op: Conv2d,
        activation: Activation,
        weight: Span,
        bias: Option<Span>,
        input: ValueId,
        output: ValueId,
        pool: Option<PoolEpilogue<ValueId>>,
    },
    Conv2dBackwardWeight {
        op: Conv2d,
        d_weight: Span,
        input: ValueId,
        d_output: ValueId,
    },
    Conv2dBackwardInput {
        op: Conv2d,
        weight: Span,
        d_output: ValueId,
        d_input: ValueId,
        epilogue: Option<GradientEpilogue<ValueId>>,
    },
    LinearForward {
        op: Linear,
        activation: Activation,
        weight: Span,
        bias: Option<Span>,
        input: ValueId,
        output: ValueId,
    },
    LinearBackwardWeight {
        op: Linear,
        d_weight: Span,
        input: ValueId,
        d_output: ValueId,
    },
    LinearBackwardInput {
        op: Linear,
        weight: Span,
        d_output: ValueId,
        d_input: ValueId,
        epilogue: Option<GradientEpilogue<ValueId>>,
    },
    /// In place on `d_output`, where nothing that wrote it has done this already.
    BiasActivationBackward {
        activation: Activation,
        rows: usize,
        channels: usize,
        d_bias: Option<Span>,
        output: ValueId,
        d_output: ValueId,
    },
    MaxPool2dForward {
        op: MaxPool2d,
        input: ValueId,
        output: ValueId,
        argmax: Option<ValueId>,
    },
    MaxPool2dBackward {
        op: MaxPool2d,
        d_output: ValueId,
        argmax: ValueId,
        d_input: ValueId,
        epilogue: Option<GradientEpilogue<ValueId>>,
    },
    AvgPool2dForward {
        op: AvgPool2d,
        input: ValueId,
        output: ValueId,
    },
    AvgPool2dBackward {
        op: AvgPool2d,
        d_output: ValueId,
        d_input: ValueId,
    },
    ActivationForward {
        op: Activation,
        len: usize,
        input: ValueId,
        output: ValueId,
    },
    ActivationBackward {
        op: Activation,
        len: usize,
        output: ValueId,
        d_output: ValueId,
        d_input: ValueId,
    },
    AddForward {
        len: usize,
        a: ValueId,
        b: ValueId,
        output: ValueId,
    },
    Accumulate {
        len: usize,
        term: ValueId,
        sum: ValueId,
    },
    Copy {
        len: usize,
        source: ValueId,
        target: ValueId,
    },
    CopyChannels {
        op: ChannelCopy,
        source: ValueId,
        target: ValueId,
    },
}

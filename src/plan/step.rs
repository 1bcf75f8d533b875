//! The steps of a plan: operators with the buffers they read and write.

use super::ValueId;
use crate::ops::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm2d, ChannelCopy, Conv2d, Dropout, GradientEpilogue, Linear, Lrn,
    MaxPool2d, PoolEpilogue, Span, Subsample,
};

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
        signs: Option<ValueId>,
    },
    LinearBackwardWeight {
        op: Linear,
        d_weight: Span,
        d_bias: Option<Span>,
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
    BatchNorm2dForward {
        op: BatchNorm2d,
        activation: Activation,
        weight: Span,
        bias: Span,
        running: Span,
        saved: Option<Span>,
        input: ValueId,
        residual: Option<ValueId>,
        output: ValueId,
    },
    BatchNorm2dBackward {
        op: BatchNorm2d,
        activation: Activation,
        weight: Span,
        bias: Span,
        saved: Span,
        d_weight: Span,
        d_bias: Span,
        input: ValueId,
        output: Option<ValueId>,
        d_output: ValueId,
        d_input: Option<ValueId>,
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
    AdaptiveAvgPool2dForward {
        op: AdaptiveAvgPool2d,
        input: ValueId,
        output: ValueId,
    },
    AdaptiveAvgPool2dBackward {
        op: AdaptiveAvgPool2d,
        d_output: ValueId,
        d_input: ValueId,
    },
    LrnForward {
        op: Lrn,
        rows: usize,
        input: ValueId,
        output: ValueId,
    },
    LrnBackward {
        op: Lrn,
        rows: usize,
        input: ValueId,
        d_output: ValueId,
        d_input: ValueId,
    },
    /// Forward, and of gradients backward.
    Dropout {
        op: Dropout,
        len: usize,
        input: ValueId,
        output: ValueId,
    },
    /// The end of the step that masks belong to.
    NextDropoutStep,
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
    SubsampleForward {
        op: Subsample,
        input: ValueId,
        output: ValueId,
    },
    SubsampleBackward {
        op: Subsample,
        d_output: ValueId,
        d_input: ValueId,
    },
}

impl StepKind {
    /// Whether it may run beside what follows it, up to the next one.
    pub fn is_weight_gradient(&self) -> bool {
        matches!(self, Self::Conv2dBackwardWeight { .. } | Self::LinearBackwardWeight { .. })
    }

    /// The plan's buffers that it reads, and those that it writes.
    pub fn buffers(&self) -> (Vec<ValueId>, Vec<ValueId>) {
        let with_epilogue = |reads: &[ValueId], epilogue: &Option<GradientEpilogue<ValueId>>| {
            reads.iter().copied().chain((*epilogue).into_iter().flat_map(GradientEpilogue::reads)).collect()
        };
        match *self {
            Self::Conv2dForward { input, output, pool, .. } => {
                let pooled = pool.into_iter().flat_map(|pool| [Some(pool.output), pool.argmax]).flatten();
                (vec![input], std::iter::once(output).chain(pooled).collect())
            }
            Self::LinearForward { input, output, signs, .. } => {
                (vec![input], std::iter::once(output).chain(signs).collect())
            }
            Self::AvgPool2dForward { input, output, .. }
            | Self::SubsampleForward { input, output, .. }
            | Self::AdaptiveAvgPool2dForward { input, output, .. }
            | Self::LrnForward { input, output, .. }
            | Self::Dropout { input, output, .. }
            | Self::ActivationForward { input, output, .. } => (vec![input], vec![output]),
            Self::Conv2dBackwardWeight { input, d_output, .. } | Self::LinearBackwardWeight { input, d_output, .. } => {
                (vec![input, d_output], Vec::new())
            }
            Self::Conv2dBackwardInput { d_output, d_input, ref epilogue, .. }
            | Self::LinearBackwardInput { d_output, d_input, ref epilogue, .. } => {
                (with_epilogue(&[d_output], epilogue), vec![d_input])
            }
            Self::MaxPool2dBackward { d_output, argmax, d_input, ref epilogue, .. } => {
                (with_epilogue(&[d_output, argmax], epilogue), vec![d_input])
            }
            Self::BiasActivationBackward { output, d_output, .. } => (vec![output, d_output], vec![d_output]),
            Self::BatchNorm2dForward { input, residual, output, .. } => {
                (std::iter::once(input).chain(residual).collect(), vec![output])
            }
            Self::BatchNorm2dBackward { input, output, d_output, d_input, .. } => {
                let writes = output.map(|_| d_output).into_iter().chain(d_input);
                ([input, d_output].into_iter().chain(output).collect(), writes.collect())
            }
            Self::MaxPool2dForward { input, output, argmax, .. } => {
                (vec![input], std::iter::once(output).chain(argmax).collect())
            }
            Self::AvgPool2dBackward { d_output, d_input, .. }
            | Self::SubsampleBackward { d_output, d_input, .. }
            | Self::AdaptiveAvgPool2dBackward { d_output, d_input, .. } => (vec![d_output], vec![d_input]),
            Self::LrnBackward { input, d_output, d_input, .. } => (vec![input, d_output], vec![d_input]),
            Self::NextDropoutStep => (Vec::new(), Vec::new()),
            Self::ActivationBackward { output, d_output, d_input, .. } => (vec![output, d_output], vec![d_input]),
            Self::AddForward { a, b, output, .. } => (vec![a, b], vec![output]),
            Self::Accumulate { term, sum, .. } => (vec![term, sum], vec![sum]),
            Self::Copy { source, target, .. } | Self::CopyChannels { source, target, .. } => {
                (vec![source], vec![target])
            }
        }
    }
}

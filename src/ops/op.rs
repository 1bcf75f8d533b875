//! The list of all operators, each in one direction, and the functions that they have in common.

use anyhow::Result;

use super::*;

/// Defines the enum of all operators, with methods that dispatch to the operator.
macro_rules! operators {
    ($($name:ident),* $(,)?) => {
        /// An operator in one direction. Its spans hold exactly the batch that it runs on.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op<B = Span> {
            $($name($name<B>),)*
        }

        $(impl<B> From<$name<B>> for Op<B> {
            fn from(op: $name<B>) -> Self {
                Self::$name(op)
            }
        })*

        impl<B: Copy> Op<B> {
            /// The same operator with its buffers renamed.
            pub fn map<C>(self, mut name: impl FnMut(B) -> C) -> Op<C> {
                match self {
                    $(Self::$name(op) => op.map(&mut |_, buffer| name(buffer)).into(),)*
                }
            }

            pub fn operands(&self) -> &dyn Operands<B> {
                match self {
                    $(Self::$name(op) => op,)*
                }
            }
        }

        impl<Target> RunOn<Target> for Op
        where
            $($name: RunOn<Target>,)*
        {
            fn run_on(&self, target: &mut Target) -> Result<()> {
                match self {
                    $(Self::$name(op) => op.run_on(target),)*
                }
            }
        }
    };
}

operators! {
    Gather,
    Augment,
    MixImages,
    Conv2dForward,
    Conv2dBackwardWeight,
    Conv2dBackwardInput,
    LinearForward,
    LinearBackwardWeight,
    LinearBackwardInput,
    BiasActivationBackward,
    BatchNorm2dStatistics,
    BatchNorm2dForward,
    BatchNorm2dBackwardSums,
    BatchNorm2dBackwardInput,
    MaxPool2dForward,
    MaxPool2dBackward,
    AvgPool2dForward,
    AvgPool2dBackward,
    AdaptiveAvgPool2dForward,
    AdaptiveAvgPool2dBackward,
    LrnForward,
    LrnBackward,
    PointwiseForward,
    PointwiseBackward,
    DropoutPass,
    NextDropoutStep,
    ActivationForward,
    ActivationBackward,
    Add,
    CopyBuffer,
    CopyChannels,
    SubsampleForward,
    SubsampleBackward,
    AddView,
    SoftmaxCrossEntropy,
    AccumulateGradients,
    MuonDirection,
    OptimizerUpdate,
}

/// A parameter-free operator of a network with one input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnyLayer {
    AvgPool2d(AvgPool2d),
    AdaptiveAvgPool2d(AdaptiveAvgPool2d),
    Lrn(Lrn),
    Pointwise(Pointwise),
    Subsample(Subsample),
}

impl AnyLayer {
    pub fn as_layer(&self) -> &dyn Layer {
        match self {
            Self::AvgPool2d(layer) => layer,
            Self::AdaptiveAvgPool2d(layer) => layer,
            Self::Lrn(layer) => layer,
            Self::Pointwise(layer) => layer,
            Self::Subsample(layer) => layer,
        }
    }

    pub fn forward<B>(self, input: B, output: B) -> Op<B> {
        match self {
            Self::AvgPool2d(op) => AvgPool2dForward { op, input, output }.into(),
            Self::AdaptiveAvgPool2d(op) => AdaptiveAvgPool2dForward { op, input, output }.into(),
            Self::Lrn(op) => LrnForward { op, input, output }.into(),
            Self::Pointwise(op) => PointwiseForward { op, input, output }.into(),
            Self::Subsample(op) => SubsampleForward { op, input, output }.into(),
        }
    }

    /// The gradient; some layers need the input for it.
    pub fn backward<B>(self, input: B, d_output: B, d_input: B) -> Op<B> {
        match self {
            Self::AvgPool2d(op) => AvgPool2dBackward { op, d_output, d_input }.into(),
            Self::AdaptiveAvgPool2d(op) => AdaptiveAvgPool2dBackward { op, d_output, d_input }.into(),
            Self::Lrn(op) => LrnBackward { op, input, d_output, d_input }.into(),
            Self::Pointwise(op) => PointwiseBackward { op, input, d_output, d_input }.into(),
            Self::Subsample(op) => SubsampleBackward { op, d_output, d_input }.into(),
        }
    }
}

/// One operator of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<B = Span> {
    /// The node and the kind of step, such as `layer1.0 forward`.
    pub label: String,
    pub op: Op<B>,
}

/// Runs an operator on a backend, or lowers it for one.
pub trait RunOn<Target> {
    fn run_on(&self, target: &mut Target) -> Result<()>;
}

//! The contract between what a network computes and where it runs: operators as plain structs, backends as traits.
//!
//! Every operator has one file here with its parameters, its shape rule, its maths and its operands. Operators are
//! generic over the type that names a buffer; [`op`] lists them all. Memory is referred to by name: a [`Span`] is a
//! range of one of the backend's flat buffers, and holds exactly the batch that an operator runs on. Activations are
//! NHWC.

mod accumulate;
mod activation;
mod augment;
mod backend;
mod bias;
mod conv;
mod dropout;
mod gather;
mod join;
mod limits;
mod linear;
mod loss;
mod lrn;
mod mix;
mod norm;
pub mod op;
mod operands;
mod optimizer;
mod pointwise;
mod pool;
mod precision;
mod span;
mod views;

pub use accumulate::{AccumulateGradients, MicroBatch};
pub use activation::{Activation, ActivationBackward, ActivationForward};
pub use augment::{Augment, Draws, PictureDraw, PixelOp, RandAugment, ResizedCrop, Stage, Transforms};
pub use backend::{
    Algorithm, Backend, Candidate, Choice, DataSets, DeviceInfo, LimitSizes, MemorySizes, StepSeconds, TIMED_RUNS,
    TrainingState,
};
pub use bias::{BiasActivationBackward, GradientEpilogue};
pub use conv::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward};
pub use dropout::{Dropout, DropoutPass, NextDropoutStep};
pub use gather::{Augmentation, AugmentationDraw, Flip, Gather, Normalise, PaddingMode, Subset, View};
pub use join::{Add, ChannelCopy, CopyBuffer, CopyChannels, Subsample, SubsampleBackward, SubsampleForward};
pub use limits::{Arithmetic, MemoryLevel, ProcessorLimits, Rate};
pub use linear::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward};
pub use loss::{LossGradient, Metrics, SoftmaxCrossEntropy, StepLoss};
pub use lrn::{Lrn, LrnBackward, LrnForward};
pub use mix::{Cut, Mix, MixImages, Mixing};
pub use norm::{
    BatchNorm2d, BatchNorm2dBackwardInput, BatchNorm2dBackwardSums, BatchNorm2dForward, BatchNorm2dStatistics,
    NormEpilogue, StatisticsEpilogue,
};
pub use op::{AnyLayer, Op, RunOn, Step};
pub use operands::{Access, Layer, Operands};
pub use optimizer::{
    Adam, Group, Groups, LossScale, MAX_GROUPS, Muon, MuonDirection, Optimizer, OptimizerUpdate, Rule, Sgd,
};
pub use pointwise::{Function, Pointwise, PointwiseBackward, PointwiseForward};
pub use pool::{
    AdaptiveAvgPool2d, AdaptiveAvgPool2dBackward, AdaptiveAvgPool2dForward, AvgPool2d, AvgPool2dBackward,
    AvgPool2dForward, MaxPool2d, MaxPool2dBackward, MaxPool2dForward, PoolEpilogue,
};
pub(crate) use pool::{describe_pooling, describe_window};
pub use precision::Precision;
pub use span::{Region, Span};
pub use views::{AddView, TestViews};

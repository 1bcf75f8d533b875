//! The contract between what a network computes and where it runs: operators as plain structs, backends as traits.
//!
//! Every operator has one file here with its parameters, its shape rule, its maths and a small trait; [`Backend`] is
//! their supertrait. Memory is named, not pointed at: a [`Span`] is a range of one of the backend's flat buffers.
//! Activations are NHWC; a span may be longer than the batch at hand needs, and operators use its beginning.

pub mod activation;
pub mod backend;
pub mod bias;
pub mod conv;
pub mod dropout;
pub mod gather;
pub mod join;
pub mod linear;
pub mod loss;
pub mod lrn;
pub mod norm;
pub mod optimizer;
pub mod pool;

pub use activation::{Activation, ActivationOps};
pub use backend::{
    Algorithm, Backend, Branches, Choice, DeviceInfo, GraphSteps, LimitSizes, MemorySizes, Recording, Region, Span,
    TIMED_RUNS,
};
pub use bias::{BiasOps, GradientEpilogue};
pub use conv::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, ConvOps};
pub use dropout::{Dropout, DropoutOps};
pub use gather::{Augmentation, Drawn, GatherOps, Normalise, Subset};
pub use join::{ChannelCopy, JoinOps, Subsample};
pub use linear::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps};
pub use loss::{LossGradient, LossOps, Metrics, StepLoss};
pub use lrn::{Lrn, LrnOps};
pub use norm::{BatchNorm2d, BatchNorm2dBackward, BatchNorm2dForward, NormOps};
pub use optimizer::{LossScale, OptimizerOps, Sgd};
pub use pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, MaxPool2dBackward, PoolEpilogue, PoolOps};

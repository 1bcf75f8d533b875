//! Element-wise activations: ReLU and leaky ReLU.

use std::fmt;

use anyhow::Result;

use super::Span;

/// `y = x > 0 ? x : slope · x`, as `torch.nn.ReLU` and `torch.nn.LeakyReLU` define it. The slope is never negative,
/// so the sign of the output tells the sign of the input, and the backward pass needs the output alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    #[default]
    Identity,
    Relu,
    LeakyRelu {
        slope: f32,
    },
}

impl Activation {
    /// The factor of values that are not positive.
    pub fn negative_slope(self) -> f32 {
        match self {
            Self::Identity => 1.0,
            Self::Relu => 0.0,
            Self::LeakyRelu { slope } => slope,
        }
    }

    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Identity => x,
            // Not x.max(0.0): that would turn NaN into 0 and hide a diverged network. PyTorch keeps it too.
            Self::Relu => {
                if x <= 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::LeakyRelu { slope } => {
                if x > 0.0 {
                    x
                } else {
                    slope * x
                }
            }
        }
    }

    /// `d_input` from `d_output` and the activation's `output`; at 0 the derivative is the slope, as in PyTorch.
    #[inline(always)]
    pub fn backward(self, output: f32, d_output: f32) -> f32 {
        match self {
            Self::Identity => d_output,
            Self::Relu => {
                if output > 0.0 {
                    d_output
                } else {
                    0.0
                }
            }
            Self::LeakyRelu { slope } => {
                if output > 0.0 {
                    d_output
                } else {
                    slope * d_output
                }
            }
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Relu => f.write_str("ReLU"),
            Self::LeakyRelu { slope } => write!(f, "LeakyReLU({slope})"),
        }
    }
}

/// Activations that the plan could not fuse into the operator before them.
pub trait ActivationOps {
    /// `output = activation(input)` over `len` elements.
    fn activation_forward(&mut self, op: Activation, len: usize, input: Span, output: Span) -> Result<()>;

    /// `d_input = d_output · activation′`, told by the sign of `output`.
    fn activation_backward(
        &mut self,
        op: Activation,
        len: usize,
        output: Span,
        d_output: Span,
        d_input: Span,
    ) -> Result<()>;
}

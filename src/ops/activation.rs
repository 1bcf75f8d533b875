//! Element-wise activations: ReLU, leaky ReLU and tanh.

use std::fmt;

use anyhow::Result;

use super::Span;

/// `y = x > 0 ? x : slope · x`, as `torch.nn.ReLU` and `torch.nn.LeakyReLU` define it, or `y = tanh x`. The slope is never
/// negative, so the output alone tells the derivative, and the backward pass needs nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    #[default]
    Identity,
    Relu,
    LeakyRelu {
        slope: f32,
    },
    Tanh,
}

impl Activation {
    /// What kernels know the activation by: the slope below zero, or −1 for tanh.
    pub fn code(self) -> f32 {
        match self {
            Self::Identity => 1.0,
            Self::Relu => 0.0,
            Self::LeakyRelu { slope } => slope,
            Self::Tanh => -1.0,
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
            Self::Tanh => x.tanh(),
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
            Self::Tanh => d_output * (1.0 - output * output),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Relu => f.write_str("ReLU"),
            Self::LeakyRelu { slope } => write!(f, "LeakyReLU({slope})"),
            Self::Tanh => f.write_str("tanh"),
        }
    }
}

/// Activations that the plan could not fuse into the operator before them.
pub trait ActivationOps {
    /// `output = activation(input)` over `len` elements.
    fn activation_forward(&mut self, op: Activation, len: usize, input: Span, output: Span) -> Result<()>;

    /// `d_input = d_output · activation′`, told by `output`.
    fn activation_backward(
        &mut self,
        op: Activation,
        len: usize,
        output: Span,
        d_output: Span,
        d_input: Span,
    ) -> Result<()>;
}

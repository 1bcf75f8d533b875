//! Element-wise activations: ReLU, leaky ReLU and tanh.

use std::fmt;

use super::operands::operator;

/// `y = x > 0 ? x : slope · x` (`torch.nn.ReLU`, `torch.nn.LeakyReLU`), or `y = tanh x`. The slope is never negative,
/// so the derivative follows from the output, and the backward pass does not need the input.
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
    /// The activation's code in kernels: the slope for negative inputs, or −1 for tanh.
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
            // Not x.max(0.0), which would turn NaN into 0 and hide divergence. PyTorch propagates NaN too.
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
            Self::Tanh => tanh(x),
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

/// Eigen's rational approximation of tanh, within 5e-7. Unlike a call of the C library's, it can be vectorised. NaN is
/// propagated.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    const ODD: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_3e-8,
        1.485_722_4e-5,
        6.372_619_4e-4,
        4.893_524_6e-3,
    ];
    const EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    // Beyond this range the quotient would exceed ±1.
    let x = x.clamp(-7.905_311, 7.905_311);
    let square = x * x;
    let polynomial = |factors: &[f32]| factors.iter().fold(0.0_f32, |sum, factor| sum * square + factor);
    x * polynomial(&ODD) / polynomial(&EVEN)
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

operator! {
    /// An activation that the plan could not fuse into the preceding operator.
    pub struct ActivationForward {
        value op: Activation,
        reads input: B,
        writes output: B,
    }
    describe(self) { self.op.to_string() }
    flops(self, len) { len(self.output) }
}

operator! {
    /// The gradient of an activation, `d_input = d_output · activation′`, with the derivative from `output`.
    pub struct ActivationBackward {
        value op: Activation,
        reads output: B,
        reads d_output: B,
        writes d_input: B,
    }
    describe(self) { format!("gradient of {}", self.op) }
    flops(self, len) { len(self.d_input) }
}

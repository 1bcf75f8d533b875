//! The numeric precision of training.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Number format of a training step. Statistics, loss and updates are fp32 in every precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point, TF32 off
    #[default]
    Fp32,
    /// 32-bit storage, matrix products on tensor cores with 10-bit mantissas (CUDA only)
    Tf32,
    /// 16-bit storage and matrix products, 32-bit accumulators and master weights, dynamic loss scale (CUDA only)
    Fp16,
    /// as fp16, with the range of fp32 and fewer digits, so without a loss scale (the CPU, and CUDA from compute capability
    /// 8.0)
    Bf16,
}

impl Precision {
    /// The name used in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }

    /// The precisions that the CPU supports, for messages.
    pub const ON_CPU: &str = "fp32 and bf16";

    /// Whether the CPU supports the precision.
    pub fn is_on_cpu(self) -> bool {
        matches!(self, Self::Fp32 | Self::Bf16)
    }

    /// Bytes per activation element.
    pub fn real_size(self) -> usize {
        if self.is_16_bit() { 2 } else { 4 }
    }

    /// Whether activations are stored in 16 bits.
    pub fn is_16_bit(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16)
    }

    /// Whether the loss is scaled, so that small gradients do not vanish.
    pub fn has_loss_scale(self) -> bool {
        self == Self::Fp16
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

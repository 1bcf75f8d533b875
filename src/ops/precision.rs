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
}

impl Precision {
    /// The name used in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
        }
    }

    /// Bytes per activation element.
    pub fn real_size(self) -> usize {
        if self == Self::Fp16 { 2 } else { 4 }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

//! In which numbers a device computes.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Arithmetic of a training step. Statistics, loss and updates are fp32 in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Plain 32-bit floating point, TF32 off
    #[default]
    Fp32,
    /// 32-bit storage, products on tensor cores with 10-bit mantissas (CUDA only)
    Tf32,
    /// 16-bit storage and products, 32-bit sums and master weights, dynamic loss scale (CUDA only)
    Fp16,
}

impl Precision {
    /// As in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
        }
    }

    /// Bytes of an activation.
    pub fn real_size(self) -> usize {
        if self == Self::Fp16 { 2 } else { 4 }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

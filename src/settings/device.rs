//! The device, its precision and algorithms, and where images are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{bounds, usage};
use crate::data::Residency;
use crate::ops::{Algorithm, Precision};

/// Settings of this group that may change when a run is resumed.
pub(super) const CHANGEABLE: &[&str] =
    &["device", "precision", "threads", "workspace-mb", "conv-algo", "dependent-launch", "residency"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Device")]
pub struct DeviceSettings {
    /// `auto`, `cpu` or the number of a CUDA device
    #[arg(long, value_name = "DEVICE", default_value = "auto", allow_negative_numbers = true)]
    pub device: Option<DeviceChoice>,
    /// Arithmetic precision; the CPU supports fp32 and bf16
    #[arg(long, value_enum, value_name = "PRECISION", default_value = "fp32")]
    pub precision: Option<Precision>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = bounds::threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Size of the im2col workspace on a CUDA device, in megabytes; larger layers are computed in pieces [default: 512]
    #[arg(long, value_name = "MB", value_parser = bounds::positive)]
    pub workspace_mb: Option<usize>,
    /// Algorithm for convolutions and linear layers on a CUDA device [default: auto]
    #[arg(long, value_enum, value_name = "ALGORITHM")]
    pub conv_algo: Option<ConvAlgo>,
    /// On CUDA devices of compute capability 9.0 and later, schedule a kernel while the previous one completes; results
    /// do not depend on it, and --no-dependent-launch switches it off
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "true")]
    pub dependent_launch: Option<bool>,
    /// Algorithms chosen by the run that is resumed, by operator, each with its tile if it has one.
    #[arg(skip)]
    #[serde(skip)]
    pub algorithms: BTreeMap<String, String>,
}

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Device")]
pub struct ResidencySettings {
    /// Where decoded images are kept; results do not depend on it
    #[arg(long, value_enum, value_name = "PLACE", default_value = "auto")]
    pub residency: Option<Residency>,
}

/// Shorthands for two values of `--residency`.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Device")]
pub struct ResidencyFlags {
    /// Same as --residency resident
    #[arg(long, conflicts_with = "residency")]
    resident: bool,
    /// Same as --residency stream
    #[arg(long, conflicts_with_all = ["resident", "residency"])]
    stream: bool,
}

/// Flags of earlier versions, accepted so that older commands keep working.
#[derive(Args, Clone, Debug)]
pub struct RetiredFlags {
    #[arg(long, hide = true, value_name = "WHEN")]
    branches: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    graph_steps: Option<String>,
}

impl ResidencyFlags {
    pub fn given(self) -> Option<Residency> {
        match (self.resident, self.stream) {
            (true, _) => Some(Residency::Resident),
            (_, true) => Some(Residency::Stream),
            _ => None,
        }
    }
}

impl DeviceSettings {
    /// # Errors
    /// A precision that the CPU does not support is requested there.
    pub fn check(&self) -> Result<()> {
        let precision = self.precision.unwrap_or_default();
        usage(self.device != Some(DeviceChoice::Cpu) || precision.is_on_cpu(), || {
            format!("--precision {precision} is for CUDA devices; the CPU supports {} only", Precision::ON_CPU)
        })
    }
}

impl RetiredFlags {
    /// Logs a warning for each of these flags that is given.
    pub fn warn(&self) {
        for (flag, given) in [("--branches", &self.branches), ("--graph-steps", &self.graph_steps)] {
            if given.is_some() {
                tracing::warn!("{flag} no longer has any effect, because it gave no speedup");
            }
        }
    }
}

/// `--device`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            number => number.parse().map(Self::Cuda).map_err(|_| {
                format!("{number:?} is not a device; it must be `auto`, `cpu` or the number of a CUDA device, from 0")
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "{ordinal}"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `--conv-algo`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvAlgo {
    /// The fastest for each layer, with the fastest tile, measured at the first start on a device
    #[default]
    Auto,
    /// im2col and cuBLAS; for linear layers cuBLAS alone
    Im2col,
    /// Implicit GEMM: one kernel, which reads the input windows without im2col
    Implicit,
    /// A direct kernel for convolutions with one input channel, groups or dilation, where it fits; else im2col
    Direct,
    /// cuBLASLt for linear layers, with bias and ReLU in its epilogue; else direct or implicit
    #[value(name = "cublaslt")]
    CublasLt,
    /// cuDNN for convolutions, where it has a deterministic engine; else im2col. It must be installed
    Cudnn,
}

impl ConvAlgo {
    /// The algorithm; `None` if the fastest is chosen automatically.
    pub fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Auto => None,
            Self::Im2col => Some(Algorithm::Gemm),
            Self::Implicit => Some(Algorithm::Implicit),
            Self::Direct => Some(Algorithm::Direct),
            Self::CublasLt => Some(Algorithm::CublasLt),
            Self::Cudnn => Some(Algorithm::Cudnn),
        }
    }
}

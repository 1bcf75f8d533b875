//! Where a network runs, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{bounds, usage};
use crate::data::Residency;
use crate::ops::{Algorithm, Precision};

/// What a resumed run may change of these.
pub(super) const CHANGEABLE: &[&str] = &["device", "precision", "threads", "workspace-mb", "conv-algo", "residency"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Device")]
pub struct DeviceSettings {
    /// `auto`, `cpu` or the number of a CUDA device
    #[arg(long, value_name = "DEVICE", default_value = "auto", allow_negative_numbers = true)]
    pub device: Option<DeviceChoice>,
    /// Arithmetic; the CPU computes in fp32 only
    #[arg(long, value_enum, value_name = "PRECISION", default_value = "fp32")]
    pub precision: Option<Precision>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = bounds::threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Megabytes that im2col may use on a CUDA device; with less it works in smaller pieces [default: 512]
    #[arg(long, value_name = "MB", value_parser = bounds::positive)]
    pub workspace_mb: Option<usize>,
    /// How a CUDA device computes convolutions and linear layers [default: auto]
    #[arg(long, value_enum, value_name = "ALGORITHM")]
    pub conv_algo: Option<ConvAlgo>,
    /// What the run being resumed chose, by operator.
    #[arg(skip)]
    #[serde(skip)]
    pub algorithms: BTreeMap<String, String>,
}

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Device")]
pub struct ResidencySettings {
    /// Where decoded images are kept; the results are the same
    #[arg(long, value_enum, value_name = "PLACE", default_value = "auto")]
    pub residency: Option<Residency>,
}

/// Flags for two of its values.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Device")]
pub struct ResidencyFlags {
    /// The same as --residency resident
    #[arg(long, conflicts_with = "residency")]
    resident: bool,
    /// The same as --residency stream
    #[arg(long, conflicts_with_all = ["resident", "residency"])]
    stream: bool,
}

/// Flags of earlier versions, accepted so that older commands still run.
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
    /// The CPU is asked for more than fp32.
    pub fn check(&self) -> Result<()> {
        let on_cpu = self.device == Some(DeviceChoice::Cpu) && self.precision.unwrap_or_default() != Precision::Fp32;
        usage(!on_cpu, || "--precision is for CUDA devices; the CPU computes in fp32 only".into())
    }
}

impl RetiredFlags {
    /// Logs a warning for each that is given.
    pub fn warn(&self) {
        for (flag, given) in [("--branches", &self.branches), ("--graph-steps", &self.graph_steps)] {
            if given.is_some() {
                tracing::warn!("{flag} has no effect any more: it measured no gain");
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
    /// Each layer's fastest, by a short trial at the first start on a device
    #[default]
    Auto,
    /// im2col and cuBLAS; cuBLAS alone for linear layers
    Im2col,
    /// One kernel that reads the windows without unfolding them
    Implicit,
    /// A kernel for convolutions of one input channel, where it fits; else im2col
    Direct,
    /// cuBLASLt for linear layers, whose products end in bias and ReLU; else direct or implicit
    #[value(name = "cublaslt")]
    CublasLt,
}

impl ConvAlgo {
    /// None where the fastest is chosen.
    pub fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Auto => None,
            Self::Im2col => Some(Algorithm::Gemm),
            Self::Implicit => Some(Algorithm::Implicit),
            Self::Direct => Some(Algorithm::Direct),
            Self::CublasLt => Some(Algorithm::CublasLt),
        }
    }
}

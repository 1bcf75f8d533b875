//! Chooses the backend, once; all below is generic over it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{flags, usage};
use crate::cpu::Cpu;
use crate::cuda::{self, Cuda, Options};
use crate::ops::{Algorithm, Backend, Choice, MemorySizes, Precision, Step};

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
                format!("{number:?} is no device; it is `auto`, `cpu` or the number of a CUDA device, from 0")
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
    /// im2col and cuBLAS; for linear layers cuBLAS alone
    Im2col,
    /// One kernel that reads the windows where they lie
    Implicit,
    /// A kernel for convolutions of one input channel, where it fits; else im2col
    Direct,
    /// For linear layers cuBLASLt, whose products end in bias and ReLU; else direct or implicit
    #[value(name = "cublaslt")]
    CublasLt,
}

impl ConvAlgo {
    fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Auto => None,
            Self::Im2col => Some(Algorithm::Gemm),
            Self::Implicit => Some(Algorithm::Implicit),
            Self::Direct => Some(Algorithm::Direct),
            Self::CublasLt => Some(Algorithm::CublasLt),
        }
    }
}

/// Which device, and how.
#[derive(Args, Clone, Default)]
pub struct DeviceArgs {
    /// `auto`, `cpu` or the number of a CUDA device [default: auto]
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true)]
    pub device: Option<DeviceChoice>,
    /// Arithmetic; the CPU has fp32 alone [default: fp32]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = flags::threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Megabytes that im2col may take on a CUDA device; less works in smaller pieces [default: 512]
    #[arg(long, value_name = "MB", value_parser = flags::positive)]
    pub workspace_mb: Option<usize>,
    /// How a CUDA device computes convolutions and linear layers [default: auto]
    #[arg(long, value_enum, value_name = "ALGORITHM")]
    pub conv_algo: Option<ConvAlgo>,
    /// Without effect since it measured no gain; accepted so that older commands still run.
    #[arg(long, hide = true, value_name = "WHEN")]
    pub branches: Option<String>,
    /// As `branches`.
    #[arg(long, hide = true, value_name = "N")]
    pub graph_steps: Option<String>,
    /// What a run that goes on has chosen, by operator.
    #[arg(skip)]
    pub algorithms: BTreeMap<String, String>,
}

/// Something to do on whatever backend was chosen.
pub trait Task {
    type Output;

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output>;
}

/// Runs `task` on the device asked for, and says which that is and why.
///
/// # Errors
/// Where a CUDA device was asked for by number and cannot be used, or the CPU is asked for more than fp32.
pub fn with_backend<T: Task>(args: &DeviceArgs, task: T) -> Result<T::Output> {
    for (flag, given) in [("--branches", &args.branches), ("--graph-steps", &args.graph_steps)] {
        if given.is_some() {
            warn!("{flag} has no effect any more: it measured no gain");
        }
    }
    let why = match args.device.unwrap_or_default() {
        DeviceChoice::Cpu => "--device cpu".to_string(),
        DeviceChoice::Cuda(ordinal) => {
            let backend = open_cuda(args, ordinal).with_context(|| unusable(ordinal))?;
            info!("device: {} (--device {ordinal})", backend.info().name);
            return task.run(backend);
        }
        DeviceChoice::Auto => match open_cuda(args, 0) {
            Ok(backend) => {
                info!("device: {} (the first that is usable)", backend.info().name);
                return task.run(backend);
            }
            Err(error) => format!("{error:#}"),
        },
    };
    if args.precision.unwrap_or_default() != Precision::Fp32 {
        bail!("the CPU computes in fp32 alone ({why}); --precision is for CUDA devices");
    }
    let backend = Cpu::new(args.threads)?;
    info!("device: {} ({why})", backend.info().name);
    task.run(backend)
}

/// What can be told of the flags before anything is loaded: a CUDA device asked for by number must be there.
pub fn check_device(args: &DeviceArgs) -> Result<()> {
    let on_cpu = args.device == Some(DeviceChoice::Cpu) && args.precision.unwrap_or_default() != Precision::Fp32;
    usage(!on_cpu, || "--precision is for CUDA devices; the CPU computes in fp32 alone".into())?;
    match args.device {
        Some(DeviceChoice::Cuda(ordinal)) => check_ordinal(ordinal).with_context(|| unusable(ordinal)),
        _ => Ok(()),
    }
}

/// What a CUDA device launches for every step of a sequence; no device is needed for it, but what one has chosen may be
/// given. Without that, `auto` takes the fewest launches.
pub fn cuda_launches(
    steps: &[Step],
    sizes: &MemorySizes,
    (precision, algorithm): (Precision, ConvAlgo),
    choices: &[Choice],
) -> Result<Vec<Vec<String>>> {
    let recorded = choices.iter().map(|choice| (choice.site.clone(), choice.algorithm)).collect();
    let options = Options { precision, algorithm: algorithm.algorithm(), recorded, ..Options::default() };
    cuda::launches(steps, sizes, &options)
}

fn unusable(ordinal: usize) -> String {
    format!("--device {ordinal} cannot be used (--device cpu works without a GPU)")
}

fn check_ordinal(ordinal: usize) -> Result<()> {
    let devices = cuda::devices()?;
    if ordinal >= devices.len() {
        let names = devices.iter().enumerate().map(|(ordinal, name)| format!("{ordinal}: {name}"));
        bail!("there is no CUDA device {ordinal}; this machine has {}", names.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

fn open_cuda(args: &DeviceArgs, ordinal: usize) -> Result<Cuda> {
    check_ordinal(ordinal)?;
    let precision = args.precision.unwrap_or_default();
    let algorithm = args.conv_algo.unwrap_or_default().algorithm();
    let known = |(site, name): (&String, &String)| Some((site.clone(), Algorithm::named(name)?));
    let recorded = args.algorithms.iter().filter_map(known).collect();
    let workspace = args.workspace_mb.map_or(cuda::DEFAULT_WORKSPACE, |megabytes| megabytes.saturating_mul(1_000_000));
    Cuda::new(Options { ordinal, precision, workspace, graphs: true, algorithm, recorded })
}

//! `cnn-cuda bench`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tracing::info;

use super::NetworkFlags;
use super::device::{Instructions, Task, with_instructions};
use crate::bench::{self, Chosen, DeviceLimits, Profile, load_random_images, resident_batches, time_steps};
use crate::network::{Network, Weights};
use crate::ops::{Backend, DeviceInfo, Metrics, Precision};
use crate::plan::{self, Mode, Plan, Sequence, TrainSettings};
use crate::report::stream::{Stdout, write_json};
use crate::settings::{DeviceSettings, Given, RetiredFlags, bounds, usage};

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct BenchArgs {
    #[command(flatten)]
    network: NetworkFlags,
    /// Images per step
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "64")]
    pub batch_size: usize,
    /// Number of timed steps, after warm-up; on a CUDA device, each is the mean of a group of up to 16 steps
    #[arg(long, value_name = "N", value_parser = bounds::bench_steps, default_value = "50")]
    pub steps: usize,
    /// What to time: whole training steps, or forward passes only
    #[arg(long, value_enum, value_name = "MODE", default_value = "train")]
    pub mode: BenchMode,
    /// Profile a training step: for each part its time, GFLOP/s, GB/s, and percentage of the limit that binds it
    #[arg(long)]
    profile: bool,
    /// Measure the device alone: on the CPU the arithmetic with every instruction set, the bandwidth of caches and memory,
    /// and the start of parallel work; on a CUDA device a matrix product, an addition and a launch
    #[arg(long, conflicts_with_all = ["profile", "trace", "algorithms", "mode", "steps", "batch_size"])]
    limits: bool,
    /// Instruction set on the CPU [default: the widest that it has]
    #[arg(long, value_enum, value_name = "SET")]
    instructions: Option<Instructions>,
    /// Write a profiled training step as a Chrome trace, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Show the time of every layer's algorithms and tiles on a CUDA device, the least time that its work allows, and
    /// which was chosen
    #[arg(long)]
    algorithms: bool,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    #[command(flatten)]
    retired: RetiredFlags,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BenchMode {
    Train,
    Infer,
}

#[derive(Serialize)]
struct BenchResult {
    model: String,
    /// Channels, height, width.
    input: [usize; 3],
    classes: usize,
    mode: BenchMode,
    device: String,
    precision: Precision,
    batch_size: usize,
    steps: usize,
    ms_per_step: Spread,
    images_per_second: f64,
    /// Nodes in the CUDA graph of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    graph_nodes: Option<usize>,
    /// Peak host memory of this process in MB (10⁶ bytes); null if the system does not report it.
    peak_memory_mb: Option<f64>,
    /// Memory in use on the device by all processes, in MB (10⁶ bytes); absent for the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_memory_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<Chosen>,
}

#[derive(Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// Times training steps (gather, forward, loss, backward, update) or forward passes on random images.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    args.retired.warn();
    if args.limits {
        return run_limits(args);
    }
    let network = args.network.build()?;
    let training = args.mode == BenchMode::Train;
    usage(training || !args.profile, || "--profile requires --mode train".into())?;
    usage(training || args.trace.is_none(), || "--trace requires --mode train".into())?;
    if let Some(folder) = args.trace.as_deref().and_then(Path::parent).filter(|it| !it.as_os_str().is_empty()) {
        ensure!(folder.is_dir(), "the folder of --trace, {}, does not exist; create it first", folder.display());
    }
    let (network, weights) = {
        let initial = network.initial_weights(0);
        // Forward passes are those of `eval` and `predict`.
        if training { (network, initial) } else { network.folded(&initial) }
    };
    let task = Benchmark { network: &network, weights, args };
    let mut result = with_instructions(&args.device.or_defaults()?, args.instructions, task)?;
    if let (Some(path), Some(profile)) = (&args.trace, &result.profile) {
        bench::write_trace(path, &profile.step)?;
        info!("trace of a step: {}", path.display());
    }
    result.profile = result.profile.filter(|_| args.profile);
    let mut out = Stdout::default();
    if args.json {
        write_json(&mut out, &result)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Spread { median, min, max } = result.ms_per_step;
    writeln!(out, "{} on {}, {}, batch {}", result.model, result.device, result.precision, result.batch_size)?;
    let what = if training { "training step" } else { "forward pass" };
    writeln!(out, "{median:.3} ms per {what} (median of {}; {min:.3} to {max:.3})", result.steps)?;
    writeln!(out, "{:.0} images/s", result.images_per_second)?;
    if let Some(nodes) = result.graph_nodes {
        writeln!(out, "{nodes} nodes in the step's graph")?;
    }
    if let Some(peak) = result.peak_memory_mb {
        writeln!(out, "peak memory {peak:.0} MB")?;
    }
    if let Some(used) = result.device_memory_mb {
        writeln!(out, "device memory in use {used:.0} MB")?;
    }
    if args.algorithms {
        writeln!(out)?;
        bench::print_algorithms(&mut out, &result.algorithms)?;
    }
    if let Some(profile) = &result.profile {
        writeln!(out)?;
        bench::print_profile(&mut out, profile)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures and prints the limits of the device.
fn run_limits(args: &BenchArgs) -> Result<ExitCode> {
    usage(args.network == NetworkFlags::default(), || {
        "--limits measures the device alone; leave out the flags that describe a network".into()
    })?;
    let limits = with_instructions(&args.device.or_defaults()?, args.instructions, MeasureLimits)?;
    let mut out = Stdout::default();
    if args.json {
        write_json(&mut out, &limits)?;
    } else {
        bench::print_limits(&mut out, &limits)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct MeasureLimits;

impl Task for MeasureLimits {
    type Output = DeviceLimits;

    fn run<B: Backend>(self, mut backend: B) -> Result<DeviceLimits> {
        let limits = bench::limits(&mut backend)?;
        let DeviceInfo { name: device, precision } = backend.info();
        Ok(DeviceLimits { device, precision, limits })
    }
}

struct Benchmark<'a> {
    network: &'a Network,
    weights: Weights,
    args: &'a BenchArgs,
}

impl Task for Benchmark<'_> {
    type Output = BenchResult;

    fn run<B: Backend>(self, mut backend: B) -> Result<BenchResult> {
        let Self { network, weights, args } = self;
        let batch = args.batch_size;
        usage(!args.algorithms || backend.device_memory().is_some(), || {
            format!("--algorithms requires a CUDA device; {} has no choice of algorithms", backend.info().name)
        })?;
        let (mode, sequence) = match args.mode {
            BenchMode::Train => (Mode::Training, Sequence::TrainStep(TrainSettings::default())),
            BenchMode::Infer => (Mode::Inference, Sequence::Forward),
        };
        let plan = Plan::new(network, mode, batch)?;
        let resident = resident_batches(&backend, &plan);
        load_random_images(&mut backend, network, batch * resident)?;
        backend.allocate(&plan.memory_sizes(false))?;
        let steps = plan.steps(&sequence, batch);
        let mut program = backend.compile(steps.clone())?;
        plan::write_weights(&mut backend, &weights)?;
        drop(weights); // they would count as the step's memory
        backend.set_learning_rates(&[0.01])?;
        backend.set_metrics(Metrics::default())?;
        let milliseconds = time_steps(&mut backend, &plan, &mut program, args.steps)?;
        let graph_nodes = B::launches(&program).map(|launches| launches.iter().map(Vec::len).sum());
        let chosen =
            |backend: &B| bench::chosen(&steps, &B::sites(&program), &backend.choices(), backend.info().precision);
        let algorithms = if args.algorithms { chosen(&backend) } else { Vec::new() };
        // Before the profile, whose limits are measured on buffers of their own.
        let (peak_memory_mb, device_memory) = (peak_memory_mb(), backend.device_memory());
        let profiled = args.profile || args.trace.is_some();
        let profile = profiled.then(|| bench::profile(&mut backend, &plan, &steps, &mut program)).transpose()?;
        let (median, info) = (milliseconds[milliseconds.len() / 2], backend.info());
        Ok(BenchResult {
            model: network.name.clone(),
            input: [network.input().channels, network.input().height, network.input().width],
            classes: network.classes(),
            mode: args.mode,
            device: info.name,
            precision: info.precision,
            batch_size: batch,
            steps: args.steps,
            ms_per_step: Spread { median, min: milliseconds[0], max: milliseconds[milliseconds.len() - 1] },
            images_per_second: batch as f64 / median * 1e3,
            graph_nodes,
            peak_memory_mb,
            device_memory_mb: device_memory.map(|[_, in_use]| in_use as f64 / 1e6),
            profile,
            algorithms,
        })
    }
}

/// Peak memory of this process in MB, from Linux's `/proc`; `None` on other systems.
fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

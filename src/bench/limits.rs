//! The limits of a device: how fast it computes, and how fast it reads and writes memory.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::ops::{
    Access, Activation, Add, Arithmetic, Backend, CopyBuffer, LimitSizes, Linear, LinearForward, MemoryLevel,
    MemorySizes, Op, Precision, ProcessorLimits, Rate, Region, Span, Step,
};
use crate::plan::Cost;
use crate::rng::{Philox, Purpose};

/// Number of measurements with the host's clock, of which the median is used.
pub(super) const REPEATS: usize = 15;

/// Length of the random noise that is repeated over the operands. Zeros would change the device's speed or power.
const NOISE: usize = 1 << 16;

/// The measured limits of the device.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// Floating-point operations per second in a large square matrix product.
    pub flops: f64,
    /// Bytes read and written per second in the addition of two large vectors.
    pub bytes: f64,
    /// Side of the matrices in that product.
    pub product_side: usize,
    /// Seconds of a launch in a graph that does almost nothing: the least time of each launch of a part. `None` if the
    /// backend launches nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<f64>,
    /// The limits of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<ProcessorLimits>,
}

/// The limits of a device by themselves, for `cnn-cuda bench --limits`.
#[derive(Debug, Serialize)]
pub struct DeviceLimits {
    pub device: String,
    pub precision: Precision,
    pub limits: Limits,
}

/// The least work of a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Floating-point operations that are executed.
    flops: f64,
    read: f64,
    written: f64,
    /// Bytes of the operands, each counted once.
    operands: f64,
}

impl Work {
    /// The work of an operator that is computed with `flops` operations.
    pub fn of(op: &Op, flops: f64) -> Self {
        let buffers = op.operands().buffers();
        let sum = |without: Access| {
            let counted = buffers.iter().filter(|(access, _)| *access != without);
            counted.map(|(_, span)| 4.0 * span.len as f64).sum::<f64>()
        };
        let (read, written) = (sum(Access::Write), sum(Access::Read));
        // An operator may access only a part of an operand.
        let accessed = Cost::of(op).bytes / (read + written).max(1.0);
        let operands = buffers.iter().map(|(_, span)| 4.0 * span.len as f64).sum::<f64>();
        Self { flops, read: read * accessed, written: written * accessed, operands: operands * accessed.min(1.0) }
    }
}

impl Limits {
    /// The least seconds for some work, and what they follow from.
    pub(super) fn least_seconds(&self, work: &Work) -> (f64, String) {
        let (compute, transfer, level) = match &self.processor {
            Some(processor) => {
                let level = processor.level_of(work.operands);
                (work.flops / processor.peak_flops, level.least_seconds(work.read, work.written), &*level.name)
            }
            None => (work.flops / self.flops, (work.read + work.written) / self.bytes, "memory"),
        };
        if compute > transfer { (compute, "compute".into()) } else { (transfer, level.into()) }
    }

    /// The limits that a profile compares with.
    pub(super) fn in_short(&self) -> String {
        if let Some(processor) = &self.processor {
            let speed = |level: &MemoryLevel| {
                format!("{} {:.0} and {:.0}", level.name, level.read.all_threads / 1e9, level.write.all_threads / 1e9)
            };
            let levels: Vec<String> = processor.levels.iter().map(speed).collect();
            return format!(
                "{:.0} GFLOP/s with {}, {:.0} in a {}³ matrix product; {:.1} µs for an empty parallel region\n\
                 GB/s read and written: {}",
                processor.peak_flops / 1e9,
                processor.instructions,
                self.flops / 1e9,
                self.product_side,
                processor.parallel_region * 1e6,
                levels.join(", ")
            );
        }
        let launch =
            self.launch.map(|launch| format!(", {:.2} µs per launch, included in the times below", launch * 1e6));
        format!("{}{}", self.product_and_addition(), launch.unwrap_or_default())
    }

    fn product_and_addition(&self) -> String {
        let Self { flops, bytes, product_side, .. } = self;
        format!(
            "{:.0} GFLOP/s in a {product_side}³ matrix product, {:.1} GB/s in an addition",
            flops / 1e9,
            bytes / 1e9
        )
    }
}

/// Measures the device's limits. This replaces the backend's allocation.
pub fn limits<B: Backend>(backend: &mut B) -> Result<Limits> {
    let LimitSizes { product_side: side, vector_len } = backend.limit_sizes()?;
    let matrix = side * side;
    let len = vector_len.max(matrix);
    let sizes = MemorySizes {
        arena: 2 * len,
        parameters: matrix,
        max_batch: side,
        max_channels: side,
        ..MemorySizes::default()
    };
    backend.allocate(&sizes)?;
    let span = |index, count| Span::new(Region::Arena, index * len, count);
    let weight = Span::new(Region::Parameters, 0, matrix);
    let mut stream = Philox::new(0, Purpose::Benchmark, 0);
    let noise: Vec<f32> = (0..NOISE).map(|_| stream.uniform(-1.0, 1.0)).collect();
    let values: Vec<f32> = noise.iter().copied().cycle().take(matrix).collect();
    backend.write(span(0, matrix), &values)?;
    backend.write(weight, &values)?;
    let op = Linear { in_features: side, out_features: side };
    let (input, activation, output) = (span(0, matrix), Activation::Identity, span(1, matrix));
    let product = LinearForward { op, activation, input, weight, bias: None, output, relu_mask: None };
    let processor = backend.processor_limits()?;
    let flops = match &processor {
        Some(processor) => processor.product_flops,
        None => 2.0 * (matrix * side) as f64 / seconds(backend, product)?,
    };
    let [a, b] = [0, 1].map(|index| span(index, vector_len));
    let sum = seconds(backend, Add { a, b, output: a })?;
    let copy = CopyBuffer { input: span(0, 1), output: span(1, 1) };
    let launch = if backend.is_asynchronous() { Some(seconds(backend, copy)?) } else { None };
    let bytes = (12 * vector_len) as f64 / sum;
    backend.allocate(&MemorySizes::default())?;
    Ok(Limits { flops, bytes, product_side: side, launch, processor })
}

/// Seconds that one operator takes, by the device's clock, or the median by the host's clock.
fn seconds<B: Backend>(backend: &mut B, op: impl Into<Op>) -> Result<f64> {
    let mut program = backend.compile(vec![Step { label: "limit".into(), op: op.into() }])?;
    let repeats = if backend.is_asynchronous() { 1 } else { REPEATS };
    let times = (0..repeats).map(|_| Ok(backend.time_step(&mut program, 0)?.seconds));
    let mut times = times.collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[repeats / 2])
}

/// Prints tables of all limits.
pub fn print(out: &mut impl Write, of: &DeviceLimits) -> Result<()> {
    let DeviceLimits { device, precision, limits } = of;
    writeln!(out, "{device}, {precision}: {}", limits.product_and_addition())?;
    if let Some(launch) = limits.launch {
        writeln!(out, "{:.2} µs per launch", launch * 1e6)?;
    }
    let Some(processor) = &limits.processor else { return Ok(()) };
    writeln!(out, "{:.2} µs for an empty parallel region\n", processor.parallel_region * 1e6)?;
    print_arithmetic(out, processor)?;
    writeln!(out)?;
    print_levels(out, processor)
}

fn print_arithmetic(out: &mut impl Write, processor: &ProcessorLimits) -> Result<()> {
    let threads = counted(processor.threads);
    let product = format!("{0}³ product", ProcessorLimits::PRODUCT_SIDE);
    writeln!(out, "{:<22}  {:^20}  {product:^20}", "GFLOP/s", "on registers")?;
    writeln!(out, "{:<22}  {:>9}  {threads:>9}  {:>9}  {threads:>9}", "", "1 thread", "1 thread")?;
    for Arithmetic { instructions, precision, peak, product } in &processor.arithmetic {
        let name = format!("{instructions}, {precision}");
        writeln!(out, "{name:<22}  {}  {}", columns(*peak, 0), columns(*product, 0))?;
    }
    Ok(())
}

fn print_levels(out: &mut impl Write, processor: &ProcessorLimits) -> Result<()> {
    let threads = counted(processor.threads);
    writeln!(out, "{:<22}  {:^20}  {:^20}  {:^20}", "GB/s", "read", "write", "copy")?;
    let pair = format!("{:>9}  {threads:>9}", "1 thread");
    writeln!(out, "{:<22}  {pair}  {pair}  {pair}", "")?;
    for level in &processor.levels {
        let size = level.cache_bytes.map(|bytes| format!(", {}", binary_size(bytes))).unwrap_or_default();
        let [read, write, copy] = [level.read, level.write, level.copy].map(|rate| columns(rate, 1));
        writeln!(out, "{:<22}  {read}  {write}  {copy}", format!("{}{size}", level.name))?;
    }
    let known = if processor.cache_sizes_known { "" } else { " The system reports no cache sizes; these are assumed." };
    writeln!(out, "\nSizes are those of the caches of all threads. A copy counts bytes read and written.{known}")?;
    Ok(())
}

/// A rate in 10⁹ per second, of one thread and of all.
fn columns(rate: Rate, decimals: usize) -> String {
    format!("{:>9.decimals$}  {:>9.decimals$}", rate.one_thread / 1e9, rate.all_threads / 1e9)
}

fn counted(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// A cache size as its makers write it, such as `32 KiB`.
fn binary_size(bytes: usize) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

//! `cnn-cuda bench --profile`: the times of a training step's parts, compared with the device's limits.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::site::site;
use crate::ops::{
    Activation, Add, Backend, CopyBuffer, LimitSizes, Linear, LinearForward, MemorySizes, Op, Region, Span, Step,
    Subset, TIMED_RUNS,
};
use crate::plan::{self, Cost, Plan, StepTime};
use crate::rng::{Philox, Purpose};

/// Number of measurements with the host's clock, of which the median is used.
const REPEATS: usize = 15;

/// Number of steps profiled with a device's own clock. Each of them runs every part several times.
const DEVICE_REPEATS: usize = 3;

/// Length of the random noise that is repeated over the operands. Zeros would change the device's speed or power.
const NOISE: usize = 1 << 16;

/// The measured limits of the device.
#[derive(Clone, Copy, Debug, Serialize)]
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
}

/// One row of the profile.
#[derive(Debug, Serialize)]
pub struct Part {
    pub label: String,
    /// The operator with its shape, if it is timed alone elsewhere too; convolutions and linear layers are among the
    /// algorithms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    pub milliseconds: f64,
    /// Fraction of the whole step's time.
    pub share: f64,
    pub gflops: f64,
    pub gigabytes_per_second: f64,
    /// Least time that the limits allow, divided by the measured time.
    pub of_limit: f64,
}

/// The profile of a training step.
#[derive(Debug, Serialize)]
pub struct Profile {
    pub limits: Limits,
    pub parts: Vec<Part>,
    pub milliseconds: f64,
    /// The step with the median time.
    #[serde(skip)]
    pub step: Vec<StepTime>,
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
    let product = seconds(backend, product)?;
    let [a, b] = [0, 1].map(|index| span(index, vector_len));
    let sum = seconds(backend, Add { a, b, output: a })?;
    let copy = CopyBuffer { input: span(0, 1), output: span(1, 1) };
    let launch = if backend.is_asynchronous() { Some(seconds(backend, copy)?) } else { None };
    let (flops, bytes) = (2.0 * (matrix * side) as f64 / product, (12 * vector_len) as f64 / sum);
    Ok(Limits { flops, bytes, product_side: side, launch })
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

/// Profiles steps on the first resident images. The plan's memory must be allocated. Only the order of the images is
/// changed.
pub fn profile<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    limits: Limits,
    steps: &[Step],
    program: &mut B::Program,
) -> Result<Profile> {
    let batch = plan.max_batch;
    let order: Vec<u32> = (0..(batch * TIMED_RUNS) as u32).map(|index| index % batch as u32).collect();
    let (warm_up, repeats) = if backend.is_asynchronous() { (0, DEVICE_REPEATS) } else { (2, REPEATS) };
    let mut runs: Vec<Vec<StepTime>> = Vec::new();
    for _ in 0..warm_up + repeats {
        backend.set_order(Subset::Train, &order, 0)?;
        runs.push(plan::profile_step(backend, steps, program)?);
    }
    runs.drain(..warm_up);
    let median = |part: usize| {
        let mut times: Vec<f64> = runs.iter().map(|run| run[part].seconds).collect();
        times.sort_by(f64::total_cmp);
        times[repeats / 2]
    };
    let seconds: Vec<f64> = (0..runs[0].len()).map(median).collect();
    let total: f64 = seconds.iter().sum();
    let precision = backend.info().precision;
    let part = |((step, &seconds), timed): ((&StepTime, &f64), &Step)| {
        let Cost { flops, bytes } = step.cost;
        Part {
            label: step.label.clone(),
            site: site(&timed.op, precision),
            milliseconds: seconds * 1e3,
            share: seconds / total,
            gflops: flops / seconds / 1e9,
            gigabytes_per_second: bytes / seconds / 1e9,
            of_limit: (flops / limits.flops).max(bytes / limits.bytes) / seconds,
        }
    };
    let parts = runs[0].iter().zip(&seconds).zip(steps).map(part).collect();
    let whole = |run: &Vec<StepTime>| run.iter().map(|part| part.seconds).sum::<f64>();
    runs.sort_by(|a, b| whole(a).total_cmp(&whole(b)));
    Ok(Profile { limits, parts, milliseconds: total * 1e3, step: runs.swap_remove(repeats / 2) })
}

/// Prints a table, in the order of the step.
pub fn print(out: &mut impl Write, profile: &Profile) -> Result<()> {
    let Limits { flops, bytes, product_side, launch } = profile.limits;
    write!(
        out,
        "limits: {:.0} GFLOP/s in a {product_side}³ matrix product, {:.1} GB/s in an addition",
        flops / 1e9,
        bytes / 1e9
    )?;
    if let Some(launch) = launch {
        write!(out, ", {:.2} µs per launch, included in the times below", launch * 1e6)?;
    }
    writeln!(out, "; bytes are counted as fp32\n")?;
    let width = profile.parts.iter().map(|part| part.label.len()).max().unwrap_or(0);
    writeln!(
        out,
        "{:<width$}  {:>8}  {:>6}  {:>8}  {:>7}  {:>8}",
        "part", "ms", "share", "GFLOP/s", "GB/s", "of limit"
    )?;
    for part in &profile.parts {
        writeln!(
            out,
            "{:<width$}  {:>8.4}  {:>5.1}%  {:>8.1}  {:>7.1}  {:>7.0}%",
            part.label,
            part.milliseconds,
            100.0 * part.share,
            part.gflops,
            part.gigabytes_per_second,
            100.0 * part.of_limit
        )?;
    }
    writeln!(out, "{:<width$}  {:>8.4}", "all", profile.milliseconds)?;
    writeln!(
        out,
        "\nEach part is timed alone, including synchronisation. A part may exceed the limit: Winograd convolution \
         needs only 4/9 of the operations that are counted, and caches are faster than memory."
    )?;
    Ok(())
}

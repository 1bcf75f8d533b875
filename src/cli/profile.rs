//! `cnn-cuda bench --profile`: where a training step's time goes, beside what the device can do.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::ops::{Activation, Backend, Linear, LinearForward, MemorySizes, Recording, Region, Sgd, Span, Subset};
use crate::plan::{self, Cost, Plan, StepTime};

/// Side of the square product that the arithmetic limit is taken from.
const SIDE: usize = 1024;

/// Floats copied to take the limit of memory: several times any cache's size.
const COPIED: usize = 32 << 20;

/// Times that everything is measured; the median counts.
const REPEATS: usize = 15;

/// What the device reaches on its best behaviour.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Of a large square product, in operations a second.
    pub flops: f64,
    /// Of a large copy, in bytes read and written a second.
    pub bytes: f64,
}

/// One line of the profile.
#[derive(Debug, Serialize)]
pub struct Part {
    pub label: String,
    pub milliseconds: f64,
    /// Of the whole step.
    pub share: f64,
    pub gflops: f64,
    pub gigabytes_per_second: f64,
    /// The time that the limits allow over the time taken.
    pub of_limit: f64,
}

/// The whole profile.
#[derive(Debug, Serialize)]
pub struct Profile {
    pub limits: Limits,
    pub parts: Vec<Part>,
    pub milliseconds: f64,
    /// The step whose time is the median.
    #[serde(skip)]
    pub step: Vec<StepTime>,
}

/// Measures the device's limits; what was allocated is gone afterwards.
pub fn limits<B: Backend>(backend: &mut B) -> Result<Limits> {
    let sizes = MemorySizes {
        arena: 2 * COPIED,
        parameters: SIDE * SIDE,
        max_batch: SIDE,
        max_channels: SIDE,
        ..MemorySizes::default()
    };
    backend.allocate(&sizes)?;
    let span = |index| Span::new(Region::Arena, index * COPIED, COPIED);
    let ones = vec![1.0; COPIED];
    backend.write(span(0), &ones)?;
    let weight = Span::new(Region::Parameters, 0, SIDE * SIDE);
    let (op, spans) = (
        Linear { in_features: SIDE, out_features: SIDE },
        LinearForward { input: span(0), weight, bias: None, activation: Activation::Identity, output: span(1) },
    );
    let product = median_seconds(backend, |backend| backend.linear_forward(&op, SIDE, spans))?;
    let copy = median_seconds(backend, |backend| backend.accumulate(COPIED, span(0), span(1)))?;
    Ok(Limits { flops: 2.0 * (SIDE * SIDE * SIDE) as f64 / product, bytes: (12 * COPIED) as f64 / copy })
}

fn median_seconds<B: Backend>(backend: &mut B, body: impl Fn(&mut B) -> Result<()> + Send + Sync) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        backend.synchronize()?;
        let start = Instant::now();
        backend.run(Recording::Once, &body)?;
        backend.synchronize()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REPEATS / 2])
}

/// Profiles steps on the batch that is resident; the plan's memory must be allocated.
pub fn profile<B: Backend>(backend: &mut B, plan: &Plan, limits: Limits, batch: usize) -> Result<Profile> {
    let order: Vec<u32> = (0..batch as u32).collect();
    let mut runs: Vec<Vec<StepTime>> = Vec::new();
    for _ in 0..REPEATS + 2 {
        backend.set_order(Subset::Train, &order, 0)?;
        runs.push(plan::profile_step(backend, plan, &Sgd::default(), batch)?);
    }
    runs.drain(..2); // to warm up
    let median = |part: usize| {
        let mut times: Vec<f64> = runs.iter().map(|run| run[part].seconds).collect();
        times.sort_by(f64::total_cmp);
        times[REPEATS / 2]
    };
    let seconds: Vec<f64> = (0..runs[0].len()).map(median).collect();
    let total: f64 = seconds.iter().sum();
    let part = |(step, &seconds): (&StepTime, &f64)| {
        let Cost { flops, bytes } = step.cost;
        Part {
            label: step.label.clone(),
            milliseconds: seconds * 1e3,
            share: seconds / total,
            gflops: flops / seconds / 1e9,
            gigabytes_per_second: bytes / seconds / 1e9,
            of_limit: (flops / limits.flops).max(bytes / limits.bytes) / seconds,
        }
    };
    let parts = runs[0].iter().zip(&seconds).map(part).collect();
    let whole = |run: &Vec<StepTime>| run.iter().map(|part| part.seconds).sum::<f64>();
    runs.sort_by(|a, b| whole(a).total_cmp(&whole(b)));
    Ok(Profile { limits, parts, milliseconds: total * 1e3, step: runs.swap_remove(REPEATS / 2) })
}

/// A table, in the order of the step.
pub fn print(out: &mut impl Write, profile: &Profile) -> Result<()> {
    let Limits { flops, bytes } = profile.limits;
    writeln!(out, "limits: {:.0} GFLOP/s in a {SIDE}³ product, {:.1} GB/s in a sum\n", flops / 1e9, bytes / 1e9)?;
    let width = profile.parts.iter().map(|part| part.label.len()).max().unwrap_or(0);
    writeln!(
        out,
        "{:<width$}  {:>8}  {:>6}  {:>8}  {:>7}  {:>8}",
        "part", "ms", "share", "GFLOP/s", "GB/s", "of limit"
    )?;
    for part in &profile.parts {
        writeln!(
            out,
            "{:<width$}  {:>8.3}  {:>5.1}%  {:>8.1}  {:>7.1}  {:>7.0}%",
            part.label,
            part.milliseconds,
            100.0 * part.share,
            part.gflops,
            part.gigabytes_per_second,
            100.0 * part.of_limit
        )?;
    }
    writeln!(out, "{:<width$}  {:>8.3}", "all", profile.milliseconds)?;
    Ok(())
}

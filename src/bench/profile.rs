//! `cnn-cuda bench --profile`: the times of a training step's parts, compared with the device's limits.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::limits::{Limits, REPEATS, Work, limits};
use super::site::site;
use crate::ops::{Backend, Op, Step, Subset, TIMED_RUNS};
use crate::plan::{self, Cost, Plan, StepTime};

/// Number of steps profiled with a device's own clock. Each of them runs every part several times.
const DEVICE_REPEATS: usize = 3;

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
    /// Least time that the limits allow.
    pub least_milliseconds: f64,
    /// Least time divided by the measured time.
    pub of_limit: f64,
    /// What the least time follows from: `compute`, or the level that the operands are in (`L1`, `L2`, `L3`, `memory`).
    pub bound: String,
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

/// Profiles steps on the first resident images, then measures the device's limits. The plan's memory must be allocated; it
/// is replaced.
pub fn profile<B: Backend>(backend: &mut B, plan: &Plan, steps: &[Step], program: &mut B::Program) -> Result<Profile> {
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
    let limits = limits(backend)?;
    let precision = backend.info().precision;
    let executed = |op: &Op| backend.executed_flops(op) as f64;
    let part = |((step, &seconds), timed): ((&StepTime, &f64), &Step)| {
        let Cost { flops, bytes } = step.cost;
        let (least, bound) = limits.least_seconds(&Work::of(&timed.op, executed(&timed.op)));
        Part {
            label: step.label.clone(),
            site: site(&timed.op, precision),
            milliseconds: seconds * 1e3,
            share: seconds / total,
            gflops: flops / seconds / 1e9,
            gigabytes_per_second: bytes / seconds / 1e9,
            least_milliseconds: least * 1e3,
            of_limit: least / seconds,
            bound,
        }
    };
    let parts = runs[0].iter().zip(&seconds).zip(steps).map(part).collect();
    let whole = |run: &Vec<StepTime>| run.iter().map(|part| part.seconds).sum::<f64>();
    runs.sort_by(|a, b| whole(a).total_cmp(&whole(b)));
    Ok(Profile { limits, parts, milliseconds: total * 1e3, step: runs.swap_remove(repeats / 2) })
}

/// Prints a table, in the order of the step.
pub fn print(out: &mut impl Write, profile: &Profile) -> Result<()> {
    writeln!(out, "limits: {}; bytes are counted as fp32\n", profile.limits.in_short())?;
    let width = profile.parts.iter().map(|part| part.label.len()).max().unwrap_or(0);
    writeln!(
        out,
        "{:<width$}  {:>8}  {:>6}  {:>8}  {:>7}  {:>8}  limit",
        "part", "ms", "share", "GFLOP/s", "GB/s", "of limit"
    )?;
    for part in &profile.parts {
        writeln!(
            out,
            "{:<width$}  {:>8.4}  {:>5.1}%  {:>8.1}  {:>7.1}  {:>7.0}%  {}",
            part.label,
            part.milliseconds,
            100.0 * part.share,
            part.gflops,
            part.gigabytes_per_second,
            100.0 * part.of_limit,
            part.bound
        )?;
    }
    writeln!(out, "{:<width$}  {:>8.4}", "all", profile.milliseconds)?;
    let note = match &profile.limits.processor {
        Some(_) => {
            "Each part is timed alone, on awake threads. The limit is that of the arithmetic on registers, or that of the \
             nearest cache or memory with room for the part's operands, whichever takes longer. GFLOP/s count direct \
             convolutions; the limit counts the multiplications that Winograd's algorithm needs instead, about a quarter of them."
        }
        None => {
            "Each part is timed alone, including synchronisation. A part may exceed the limit: caches are faster than \
             memory, and cuDNN's algorithms may need fewer operations than are counted."
        }
    };
    writeln!(out, "\n{note}")?;
    Ok(())
}

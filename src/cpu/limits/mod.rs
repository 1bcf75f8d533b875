//! Measures the processor: its arithmetic, the bandwidth of its caches and memory, and the cost of parallel work.
//!
//! A limit is the best of many short measurements, so that other programs disturb it little.

mod arithmetic;
mod bandwidth;
mod caches;
mod loops;
mod product;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rayon::ThreadPool;

use super::{Cpu, Instructions};
use crate::ops::{Precision, ProcessorLimits};

/// The number of measurements of a speed, of which the best counts, and the least duration of each.
const WINDOWS: usize = 20;
const WINDOW: Duration = Duration::from_millis(2);

/// The number of measurements of what takes longer than that.
const LONG_WINDOWS: usize = 5;

/// Empty parallel regions per measurement.
const REGIONS: u32 = 200;

impl Cpu {
    /// Measures the limits of the processor with this backend's threads, in a few seconds.
    pub(super) fn measure_limits(&self) -> Result<ProcessorLimits> {
        let (pool, threads, set) = (&*self.pool, self.threads(), self.instructions);
        let arithmetic = arithmetic::measure(pool)?;
        let by_pairs = self.precision == Precision::Bf16 && set.multiplies_pairs();
        let instructions = if by_pairs { arithmetic::BF16 } else { set.name() };
        let in_use = arithmetic.iter().find(|it| it.instructions == instructions);
        let in_use = in_use.context("the instructions in use were not measured")?;
        let (peak_flops, product_flops) = (in_use.peak.all_threads, in_use.product.all_threads);
        let caches = caches::of_system();
        Ok(ProcessorLimits {
            threads,
            instructions,
            peak_flops,
            product_flops,
            cache_sizes_known: caches.is_some(),
            levels: bandwidth::measure(pool, set, &caches.unwrap_or_else(caches::usual))?,
            parallel_region: parallel_region(pool),
            arithmetic,
        })
    }
}

/// The number of units of work per second of `body`, which does `work` of them per call and is called for a while.
fn rate(work: f64, mut body: impl FnMut()) -> f64 {
    let (begin, mut calls) = (Instant::now(), 0.0);
    loop {
        body();
        calls += 1.0;
        let elapsed = begin.elapsed();
        if elapsed >= WINDOW {
            return calls * work / elapsed.as_secs_f64();
        }
    }
}

/// Calls `measure` so many times with the index of a thread, on one thread or at the same time on all, and returns the
/// sum of the threads' rates where it is best.
fn best(pool: &ThreadPool, all_threads: bool, count: usize, measure: impl Fn(usize) -> f64 + Sync) -> f64 {
    let barrier = Barrier::new(if all_threads { pool.current_num_threads() } else { 1 });
    let windows = |thread: usize| {
        let window = |_| {
            barrier.wait();
            measure(thread)
        };
        (0..count).map(window).collect::<Vec<f64>>()
    };
    let rates = match all_threads {
        true => pool.broadcast(|context| windows(context.index())),
        false => vec![pool.install(|| windows(0))],
    };
    (0..count).map(|window| rates.iter().map(|rates| rates[window]).sum()).fold(0.0, f64::max)
}

/// Seconds that a piece of work on every thread takes if it is empty. The pool is entered before, as it is by a step.
fn parallel_region(pool: &ThreadPool) -> f64 {
    let seconds = |_| {
        let begin = Instant::now();
        (0..REGIONS).for_each(|_| drop(pool.broadcast(|_| ())));
        (begin.elapsed() / REGIONS).as_secs_f64()
    };
    pool.install(|| (0..WINDOWS).map(seconds).fold(f64::INFINITY, f64::min))
}

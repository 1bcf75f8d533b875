//! The H200 according to its data sheet, and the least time that its limits allow.

use crate::ops::Precision;
use crate::plan::Cost;

/// Memory bandwidth of an H200 SXM. It and the operations per second below are NVIDIA's figures, without sparsity.
const BYTES_PER_SECOND: f64 = 4.8e12;

fn operations_per_second(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 67e12,
        Precision::Tf32 => 494e12,
        Precision::Fp16 | Precision::Bf16 => 989e12,
    }
}

/// Approximate seconds from the start of one small kernel in a graph to the start of the next.
pub const LAUNCH: f64 = 1.3e-6;

/// A lower bound for the microseconds that an H200 takes for some work in a number of launches.
pub fn h200_microseconds(work: Cost, precision: Precision, launches: usize) -> f64 {
    let seconds = (work.flops / operations_per_second(precision)).max(work.bytes / BYTES_PER_SECOND);
    (seconds + LAUNCH * launches as f64) * 1e6
}

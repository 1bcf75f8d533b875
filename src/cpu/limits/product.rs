//! The speed of this program's matrix product: a linear layer over large square matrices.

use anyhow::Result;

use super::{Cpu, Instructions, LONG_WINDOWS};
use crate::ops::{
    Activation, Backend, Linear, LinearForward, MemorySizes, Precision, ProcessorLimits, Rate, Region, Span, Step,
};

/// Floating-point operations per second of one thread and of `threads` threads.
pub(super) fn flops(set: Instructions, precision: Precision, threads: usize) -> Result<Rate> {
    let one_thread = with_threads(set, precision, 1)?;
    let all_threads = if threads == 1 { one_thread } else { with_threads(set, precision, threads)? };
    Ok(Rate { one_thread, all_threads })
}

fn with_threads(set: Instructions, precision: Precision, threads: usize) -> Result<f64> {
    let side = ProcessorLimits::PRODUCT_SIDE;
    let (matrix, mut cpu) = (side * side, Cpu::with_options(Some(threads), set, precision)?);
    cpu.allocate(&MemorySizes { arena: 2 * matrix, parameters: matrix, max_batch: side, ..MemorySizes::default() })?;
    let [input, output] = [0, matrix].map(|offset| Span::new(Region::Arena, offset, matrix));
    let weight = Span::new(Region::Parameters, 0, matrix);
    let values: Vec<f32> = (0..matrix).map(|index| (index % 251) as f32 / 251.0 - 0.5).collect();
    cpu.write(input, &values)?;
    cpu.write(weight, &values)?;
    let (op, activation) = (Linear { in_features: side, out_features: side }, Activation::Identity);
    let product = LinearForward { op, activation, input, weight, bias: None, output, relu_mask: None };
    let mut program = cpu.compile(vec![Step { label: "product".into(), op: product.into() }])?;
    let mut least = f64::INFINITY;
    for _ in 0..LONG_WINDOWS {
        least = least.min(cpu.time_step(&mut program, 0)?.seconds);
    }
    Ok(2.0 * (matrix * side) as f64 / least)
}

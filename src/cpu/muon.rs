//! Muon's directions on the CPU: momentum, then a Newton–Schulz iteration whose products use the micro-kernel.

use anyhow::Result;
use rayon::prelude::*;

use super::gemm::kernel::{Gemm, LeftStrides, Start};
use super::runtime::scratch::{self, PANEL, grown};
use super::{Cpu, ELEMENTWISE_CHUNK, Instructions};
use crate::ops::{Muon, MuonDirection, RunOn};

/// Rows of a product per task: a multiple of every instruction set's tile height.
const BLOCK_ROWS: usize = 24;

/// Depth of a block of the inner dimension, so that a panel's block stays in L1.
const DEPTH: usize = 128;

/// Matrices of the iteration, kept between steps to avoid allocations. `short` and `long` are the matrix's sides.
#[derive(Default)]
pub(super) struct State {
    /// `[short][long]`
    x: Vec<f32>,
    next: Vec<f32>,
    /// `[short][short]`
    gram: Vec<f32>,
    scaled: Vec<f32>,
    polynomial: Vec<f32>,
    /// The right operand of a product, in panels of columns.
    packed: Vec<f32>,
}

impl RunOn<Cpu> for MuonDirection {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let Self { op, rows, gradient, momentum, weight, all_gradients: _ } = *self;
        let nothing = gradient.first(0);
        let [direction, momentum, weight] = cpu.memory.update([gradient, momentum, weight.unwrap_or(nothing)])?;
        add_momentum(op, direction, momentum);
        cpu.muon.orthogonalise(cpu.instructions, direction, rows, op.iterations);
        direction.iter_mut().for_each(|value| *value *= self.scale());
        let scale = (rows as f32).sqrt() * inverse_norm(weight);
        weight.iter_mut().for_each(|value| *value *= scale);
        Ok(())
    }
}

/// `1 / ‖matrix‖`, bounded for tiny norms. NaN is propagated.
fn inverse_norm(matrix: &[f32]) -> f32 {
    let norm = matrix.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt() as f32;
    1.0 / if norm < MuonDirection::MIN_NORM { MuonDirection::MIN_NORM } else { norm }
}

/// `b = momentum · b + g`; the gradient becomes `b`, or with Nesterov momentum `g + momentum · b`.
fn add_momentum(op: Muon, gradients: &mut [f32], momentum: &mut [f32]) {
    let work = gradients.par_chunks_mut(ELEMENTWISE_CHUNK).zip(momentum.par_chunks_mut(ELEMENTWISE_CHUNK));
    work.for_each(|(gradients, momentum)| {
        for (g, b) in gradients.iter_mut().zip(momentum) {
            *b = op.momentum * *b + *g;
            *g = if op.nesterov { *g + op.momentum * *b } else { *b };
        }
    });
}

impl State {
    /// Orthogonalises a matrix with `rows` rows in place.
    fn orthogonalise(&mut self, set: Instructions, matrix: &mut [f32], rows: usize, iterations: u32) {
        let columns = matrix.len() / rows;
        let (short, long) = (rows.min(columns), rows.max(columns));
        let inverse = inverse_norm(matrix);
        matrix.iter_mut().for_each(|value| *value *= inverse);
        let x = grown(&mut self.x, matrix.len());
        if rows > columns {
            scratch::transpose(set, matrix, columns, x, rows);
        } else {
            x.copy_from_slice(matrix);
        }
        for _ in 0..iterations {
            self.iterate(set, short, long);
        }
        let x = &self.x[..matrix.len()];
        if rows > columns {
            scratch::transpose(set, x, rows, matrix, columns);
        } else {
            matrix.copy_from_slice(x);
        }
    }

    /// `x = a x + (b g + c g²) x` with `g = x xᵀ`.
    fn iterate(&mut self, set: Instructions, short: usize, long: usize) {
        let [a, b, c] = MuonDirection::COEFFICIENTS;
        let (area, square) = (short * long, short * short);
        let x = &self.x[..area];
        let packed = grown(&mut self.packed, area.max(square));
        // x [short, long] · xᵀ [long, short] → gram
        let gram = grown(&mut self.gram, square);
        packed[..area].par_chunks_mut(long * PANEL).zip(x.par_chunks(long * PANEL)).for_each(|(panel, x)| {
            scratch::transpose(set, x, long, panel, x.len() / long);
        });
        product(set, (x, long), &packed[..area], (gram, short), Start::Zero);
        // b gram + (c gram) · gram → polynomial
        let (scaled, polynomial) = (grown(&mut self.scaled, square), grown(&mut self.polynomial, square));
        scale(gram, c, scaled);
        scale(gram, b, polynomial);
        pack(set, (gram, short), &mut packed[..square]);
        product(set, (scaled, short), &packed[..square], (polynomial, short), Start::Accumulate);
        // a x + polynomial [short, short] · x [short, long] → next
        let next = grown(&mut self.next, area);
        scale(x, a, next);
        pack(set, (x, long), &mut packed[..area]);
        product(set, (polynomial, short), &packed[..area], (next, long), Start::Accumulate);
        std::mem::swap(&mut self.x, &mut self.next);
    }
}

/// `target = factor · source`
fn scale(source: &[f32], factor: f32, target: &mut [f32]) {
    let work = target.par_chunks_mut(ELEMENTWISE_CHUNK).zip(source.par_chunks(ELEMENTWISE_CHUNK));
    work.for_each(|(target, source)| {
        target.iter_mut().zip(source).for_each(|(target, &value)| *target = factor * value);
    });
}

/// Packs a matrix with the given number of columns in panels `[panel][rows][PANEL]`.
fn pack(set: Instructions, (matrix, columns): (&[f32], usize), packed: &mut [f32]) {
    let rows = matrix.len() / columns;
    packed.par_chunks_mut(rows * PANEL).enumerate().for_each(|(panel, target)| {
        scratch::pack_panels(set, &matrix[panel * PANEL..], columns, (rows, target.len() / rows), target);
    });
}

/// `c [rows][columns] = start + a [rows][inner] · b`, with `b` in panels `[panel][inner][PANEL]`. `a` comes with its
/// columns, and so does `c`.
fn product(set: Instructions, (a, inner): (&[f32], usize), b: &[f32], (c, columns): (&mut [f32], usize), start: Start) {
    c.par_chunks_mut(BLOCK_ROWS * columns).zip(a.par_chunks(BLOCK_ROWS * inner)).for_each(|(c, a)| {
        let rows = c.len() / columns;
        for begin in (0..inner).step_by(DEPTH) {
            let start = if begin == 0 { start } else { Start::Accumulate };
            for (index, panel) in b.chunks(inner * PANEL).enumerate() {
                let width = panel.len() / inner;
                let block = Gemm {
                    lines: 1,
                    rows,
                    cols: width,
                    outer: 1,
                    inner: DEPTH.min(inner - begin),
                    a: LeftStrides { line: 0, row: inner, outer: 0, inner: 1 },
                    b_inner: width,
                    c_row: columns,
                    ..Gemm::default()
                };
                block.run(set, &a[begin..], &panel[begin * width..], &mut c[index * PANEL..], start, false);
            }
        }
    });
}

//! Local response normalisation on the CPU, one pixel at a time.

use anyhow::Result;
use rayon::prelude::*;

use super::runtime::scratch::{self, Buffer};
use super::{Cpu, ELEMENTWISE_CHUNK, Instructions, Loop, Real, RunAs};
use crate::ops::{Lrn, LrnBackward, LrnForward};

impl RunAs for LrnForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, set, piece) = (&self.op, cpu.instructions, piece(&self.op));
        let [x, y] = cpu.memory.values::<R, _>([self.input, self.output])?;
        x.par_chunks(piece).zip(y.par_chunks_mut(piece)).for_each(|(x, y)| {
            scratch::with_floats(set, x, Buffer::Converted, |x| {
                scratch::with_output(set, y, |y| {
                    for (x, y) in x.chunks_exact(op.input.channels).zip(y.chunks_exact_mut(op.input.channels)) {
                        denominators(set, op, x, y);
                        powers(set, op.beta, y);
                        set.run(Multiply { x, y });
                    }
                });
            });
        });
        Ok(())
    }
}

impl RunAs for LrnBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, set, piece) = (&self.op, cpu.instructions, piece(&self.op));
        let [x, d_y, d_x] = cpu.memory.values::<R, _>([self.input, self.d_output, self.d_input])?;
        let pieces = x.par_chunks(piece).zip(d_y.par_chunks(piece)).zip(d_x.par_chunks_mut(piece));
        pieces.for_each(|((x, d_y), d_x)| {
            scratch::with_floats(set, x, Buffer::Converted, |x| {
                scratch::with_floats(set, d_y, Buffer::OtherConverted, |d_y| {
                    scratch::with_output(set, d_x, |d_x| backward(set, op, x, d_y, d_x));
                });
            });
        });
        Ok(())
    }
}

/// The input gradient of some pixels.
fn backward(set: Instructions, op: &Lrn, x: &[f32], d_y: &[f32], d_x: &mut [f32]) {
    let factor = -2.0 * op.alpha * op.beta / op.size as f32;
    let rows = x.chunks_exact(op.input.channels).zip(d_y.chunks_exact(op.input.channels));
    scratch::with(Buffer::Packed, 2 * op.input.channels, |buffer| {
        let (sums, terms) = buffer.split_at_mut(op.input.channels);
        for ((x, d_y), d_x) in rows.zip(d_x.chunks_exact_mut(op.input.channels)) {
            denominators(set, op, x, sums);
            d_x.copy_from_slice(sums);
            powers(set, op.beta, d_x);
            set.run(PixelGradient { size: op.size, factor, x, d_y, d_x, sums, terms });
        }
    });
}

/// The gradient of one pixel, from `d^−β` in `d_x` and the denominators in `sums`.
struct PixelGradient<'a> {
    size: usize,
    factor: f32,
    x: &'a [f32],
    d_y: &'a [f32],
    d_x: &'a mut [f32],
    sums: &'a mut [f32],
    terms: &'a mut [f32],
}

impl Loop for PixelGradient<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { size, factor, x, d_y, d_x, sums, terms } = self;
        // d_x = d_y · d^−β, terms = d_y · x · d^−(β+1)
        for ((d_x, term), ((x, d_y), sum)) in d_x.iter_mut().zip(&mut *terms).zip(x.iter().zip(d_y).zip(&*sums)) {
            *d_x *= d_y;
            *term = *d_x * x / sum;
        }
        // The channels with c in their window form the mirrored window.
        windowed(terms, (size - 1) / 2, size / 2, sums);
        for ((d_x, x), sum) in d_x.iter_mut().zip(x).zip(&*sums) {
            *d_x += factor * x * sum;
        }
    }
}

/// Elements per task: a whole number of pixels.
fn piece(op: &Lrn) -> usize {
    (ELEMENTWISE_CHUNK / op.input.channels).max(1) * op.input.channels
}

/// `d` of every channel of one pixel.
fn denominators(set: Instructions, op: &Lrn, x: &[f32], d: &mut [f32]) {
    scratch::with(Buffer::Padded, op.input.channels, |squares| {
        set.run(PixelDenominators { op, x, d, squares });
    });
}

struct PixelDenominators<'a> {
    op: &'a Lrn,
    x: &'a [f32],
    d: &'a mut [f32],
    squares: &'a mut [f32],
}

impl Loop for PixelDenominators<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { op, x, d, squares } = self;
        squares.iter_mut().zip(x).for_each(|(square, x)| *square = x * x);
        windowed(squares, op.size / 2, (op.size - 1) / 2, d);
        let factor = op.alpha / op.size as f32;
        d.iter_mut().for_each(|d| *d = op.k + factor * *d);
    }
}

/// `sums[c] = Σ values[c − before ..= c + after]` over the existing values, in order.
#[inline(always)]
fn windowed(values: &[f32], before: usize, after: usize, sums: &mut [f32]) {
    sums.fill(0.0);
    for offset in (1..=before).rev().filter(|&offset| offset < values.len()) {
        sums[offset..].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    for offset in (0..=after).filter(|&offset| offset < values.len()) {
        sums.iter_mut().zip(&values[offset..]).for_each(|(sum, value)| *sum += value);
    }
}

/// `y = y · x`
struct Multiply<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Loop for Multiply<'_> {
    #[inline(always)]
    fn run(self) {
        self.y.iter_mut().zip(self.x).for_each(|(y, x)| *y *= x);
    }
}

/// `values^−β`
fn powers(set: Instructions, beta: f32, values: &mut [f32]) {
    match beta {
        0.75 => set.run(UsualPowers(values)),
        _ => values.iter_mut().for_each(|value| *value = value.powf(-beta)),
    }
}

/// `values^−β` for the usual β = ¾, with two square roots, which vectorise, unlike calls of `powf`.
struct UsualPowers<'a>(&'a mut [f32]);

impl Loop for UsualPowers<'_> {
    #[inline(always)]
    fn run(self) {
        for value in self.0 {
            let root = value.sqrt();
            *value = 1.0 / (root * root.sqrt());
        }
    }
}

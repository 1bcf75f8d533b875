//! Functions of single values on the CPU; GELU with approximations of erf and exp that vectorise, unlike calls of the C library.

use std::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E};

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK, Loop, Real, RunAs};
use crate::ops::{Function, PointwiseBackward, PointwiseForward};

impl RunAs for PointwiseForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (set, [x, y]) = (cpu.instructions, cpu.memory.values::<R, _>([self.input, self.output])?);
        let chunks = y.par_chunks_mut(ELEMENTWISE_CHUNK).zip(x.par_chunks(ELEMENTWISE_CHUNK));
        let function = self.op.function;
        chunks.for_each(|(y, x)| set.run(Map { function, x, y }));
        Ok(())
    }
}

impl RunAs for PointwiseBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let [x, d_y, d_x] = cpu.memory.values::<R, _>([self.input, self.d_output, self.d_input])?;
        let set = cpu.instructions;
        let sources = x.par_chunks(ELEMENTWISE_CHUNK).zip(d_y.par_chunks(ELEMENTWISE_CHUNK));
        let chunks = d_x.par_chunks_mut(ELEMENTWISE_CHUNK).zip(sources);
        let function = self.op.function;
        chunks.for_each(|(d_x, (x, d_y))| set.run(MapGradient { function, x, d_y, d_x }));
        Ok(())
    }
}

/// `y = function(x)`
struct Map<'a, R> {
    function: Function,
    x: &'a [R],
    y: &'a mut [R],
}

impl<R: Real> Loop for Map<'_, R> {
    #[inline(always)]
    fn run(self) {
        // One loop per function, so that there is no branch inside the loop.
        macro_rules! map {
            ($x:ident => $value:expr) => {
                for (y, x) in self.y.iter_mut().zip(self.x) {
                    let $x = x.get();
                    *y = R::new($value);
                }
            };
        }
        match self.function {
            Function::Gelu => map!(x => x * normal_distribution(x)),
            Function::Scale { factor } => map!(x => factor * x),
            Function::Square => map!(x => x * x),
            Function::SquareRoot => map!(x => x.sqrt()),
        }
    }
}

/// `d_x = d_y · function′(x)`
struct MapGradient<'a, R> {
    function: Function,
    x: &'a [R],
    d_y: &'a [R],
    d_x: &'a mut [R],
}

impl<R: Real> Loop for MapGradient<'_, R> {
    #[inline(always)]
    fn run(self) {
        macro_rules! map {
            ($x:ident, $d_y:ident => $value:expr) => {
                for (d_x, (x, d_y)) in self.d_x.iter_mut().zip(self.x.iter().zip(self.d_y)) {
                    let ($x, $d_y) = (x.get(), d_y.get());
                    *d_x = R::new($value);
                }
            };
        }
        match self.function {
            Function::Gelu => map!(x, d_y => d_y * (normal_distribution(x) + x * normal_density(x))),
            Function::Scale { factor } => map!(_x, d_y => factor * d_y),
            Function::Square => map!(x, d_y => 2.0 * x * d_y),
            Function::SquareRoot => map!(x, d_y => if x == 0.0 { 0.0 } else { d_y / (2.0 * x.sqrt()) }),
        }
    }
}

/// `Φ(x)`, the cumulative distribution of the standard normal distribution.
#[inline(always)]
fn normal_distribution(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * FRAC_1_SQRT_2)
}

/// `φ(x)`, the density of the standard normal distribution.
#[inline(always)]
fn normal_density(x: f32) -> f32 {
    const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
    INVERSE_SQRT_TAU * exp(-0.5 * x * x)
}

/// Eigen's rational approximation of the error function, within 5e-7. NaN is propagated.
#[inline(always)]
fn erf(x: f32) -> f32 {
    const ODD: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const EVEN: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2];
    // From here on, erf is ±1 in f32.
    const LIMIT: f32 = 3.925;
    let square = x * x;
    let polynomial = |factors: &[f32]| factors.iter().fold(0.0_f32, |sum, factor| sum * square + factor);
    if x.abs() >= LIMIT { 1.0_f32.copysign(x) } else { x * polynomial(&ODD) / polynomial(&EVEN) }
}

/// `exp(x)` for x of at most 0, within 3e-7 of itself; 0 where that would not be a normal number. `x = n ln 2 + r`, and a
/// polynomial approximates `exp(r)` (Cody and Waite's reduction, with Cephes' coefficients). NaN is propagated.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding it rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 with few bits, so that its multiples are exact, and the rest.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32;
    const LEAST: f32 = -126.0 * LN_2;
    const FACTORS: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
    let bounded = if x < LEAST { LEAST } else { x };
    let rounded = bounded * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = bounded - n * LN_2_HIGH - n * LN_2_LOW;
    let polynomial = FACTORS.iter().fold(0.0_f32, |sum, factor| sum * r + factor);
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let result = (polynomial * r * r + r + 1.0) * power;
    if x < LEAST { 0.0 } else { result }
}

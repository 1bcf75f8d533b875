//! Muon's directions: products by cuBLAS, between kernels for momentum, norm and the polynomial.

use anyhow::Result;

use super::Lowering;
use super::optimizer::{OVERFLOW, SCALE};
use super::params::params;
use crate::cuda::gemm::{Gemm, Operand};
use crate::cuda::program::{Address, Buffer};
use crate::ops::{MuonDirection, RunOn, Span};

impl RunOn<Lowering<'_>> for MuonDirection {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, rows, gradient, momentum, weight, all_gradients } = *self;
        let (target, count, columns) = (lowering.target, gradient.len, gradient.len / rows);
        let [loss_scale, overflow] = [SCALE, OVERFLOW].map(|offset| lowering.loss_scaling(offset));
        if let Some(all) = all_gradients {
            // Before the momentum changes, as the update will skip the step if a gradient is not finite.
            lowering.check_overflow(all)?;
        }
        let params = params!(
            target, 48 bytes, [loss_scale, overflow, gradient, momentum],
            count: u64, factor: f32 = op.momentum, nesterov: u32 = op.nesterov,
        );
        lowering.launch_over("muon_momentum", count, params)?;
        let norm = lowering.norm_of(gradient, false)?;
        let (short, long, real) = (rows.min(columns), rows.max(columns), lowering.real_size());
        // x and its successor [short][long], then the gram matrix and the polynomial [short][short].
        let place = |elements: usize| Address::at(Buffer::Directions).plus(elements * real);
        let [mut x, mut next, gram, polynomial] = [0, count, 2 * count, 2 * count + short * short].map(place);
        let params = params!(target, 40 bytes, [gradient, norm, x], count: u64, rows: u32, columns: u32);
        lowering.launch_over("muon_start", count, params)?;
        let [a, b, c] = Self::COEFFICIENTS;
        for _ in 0..op.iterations {
            let (plain, transposed) = (Operand::plain, Operand::transposed);
            lowering.gemm(Gemm::new([short, short, long], plain(x), transposed(x), gram));
            lowering.gemm(Gemm::new([short; 3], plain(gram), plain(gram), polynomial));
            let params = params!(
                target, 40 bytes, [gram, polynomial],
                count: u64 = short * short, side: u32 = short, a: f32, b: f32, c: f32,
            );
            lowering.launch_over("muon_polynomial", short * short, params)?;
            lowering.gemm(Gemm::new([short, long, short], plain(polynomial), plain(x), next));
            std::mem::swap(&mut x, &mut next);
        }
        let params = params!(
            target, 48 bytes, [loss_scale, x, gradient],
            count: u64, rows: u32, columns: u32, factor: f32 = self.scale(),
        );
        lowering.launch_over("muon_finish", count, params)?;
        weight.map_or(Ok(()), |weight| lowering.normalise(weight, rows))
    }
}

impl Lowering<'_> {
    /// Scales a matrix to the norm √rows.
    fn normalise(&mut self, weight: Span, rows: usize) -> Result<()> {
        let (norm, overflow, count) = (self.norm_of(weight, false)?, self.loss_scaling(OVERFLOW), weight.len);
        let length = (rows as f32).sqrt();
        let params = params!(self.target, 40 bytes, [overflow, norm, weight], count: u64, length: f32);
        self.launch_over("muon_normalise", count, params)
    }
}

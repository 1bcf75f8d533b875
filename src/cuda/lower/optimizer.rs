//! SGD, with the learning rate and fp16's dynamic loss scale in device memory.

use anyhow::Result;

use super::params::params;
use super::{Lowering, Target};
use crate::cuda::program::{Address, BLOCK, Buffer, KernelLaunch, Launch, grid_over};
use crate::cuda::scratch::{MAX_NORM_BLOCKS, NORM_BYTES};
use crate::ops::{Precision, RunOn, SgdUpdate};

/// Offsets in `Buffer::LossScaling`: `{scale f32, good_steps u32, skipped_steps u64, overflow i32}`.
const SCALE: usize = 0;
const GOOD_STEPS: usize = 4;
const SKIPPED_STEPS: usize = 8;
const OVERFLOW: usize = 16;

impl Lowering<'_> {
    /// The address at `offset` in the loss scale's state; `None` if the precision does not use loss scaling.
    pub(super) fn loss_scaling(&self, offset: usize) -> Option<Address> {
        self.is_fp16().then(|| Address::at(Buffer::LossScaling).plus(offset))
    }
}

/// The rounded copy of the parameters; `None` unless the precision is fp16.
fn half_parameters(target: Target) -> Option<Buffer> {
    (target.precision == Precision::Fp16).then_some(Buffer::HalfParameters)
}

impl RunOn<Lowering<'_>> for SgdUpdate {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, weights, gradients, momentum: buffer, average } = *self;
        let target = lowering.target;
        let (count, quads) = (weights.len, weights.len.div_ceil(4));
        let (block_counters, loss_scale, overflow) =
            (Buffer::BlockCounters, lowering.loss_scaling(SCALE), lowering.loss_scaling(OVERFLOW));
        if lowering.is_fp16() {
            let params = params!(target, 24 bytes, [gradients, overflow], count: u64);
            lowering.launch_over("check_overflow", quads, params)?;
        }
        let norm = op.clip_norm.map(|_| Address::at(Buffer::GradientNorm));
        if let Some(norm) = norm {
            let blocks = quads.div_ceil(BLOCK).clamp(1, MAX_NORM_BLOCKS);
            let params = params!(
                target, 48 bytes, [gradients, loss_scale, partial = norm.plus(NORM_BYTES), norm, block_counters], count: u64
            );
            lowering.launch("gradient_norm", [blocks, 1], params)?;
        }
        let (decay, rest) = op.average_coefficients();
        let params = params!(
            target, 136 bytes,
            [
                gradients, norm, weights, weights_real = half_parameters(target), buffer, average,
                rates = Buffer::LearningRates, loss_scale, good_steps = lowering.loss_scaling(GOOD_STEPS),
                skipped_steps = lowering.loss_scaling(SKIPPED_STEPS), overflow, block_counters,
            ],
            count: u64, frozen: u64 = op.frozen, momentum: f32 = op.momentum, weight_decay: f32 = op.weight_decay,
            clip_norm: f32 = op.clip_norm.unwrap_or(0.0), decay: f32, rest: f32, nesterov: u32 = op.nesterov,
        );
        lowering.launch_over("sgd", quads, params)
    }
}

/// Exchanges `count` parameters with their average.
pub(in crate::cuda) fn swap_average(count: usize, target: Target) -> Result<Launch> {
    let params = params!(
        target, 32 bytes,
        [weights = Buffer::Parameters, weights_real = half_parameters(target), average = Buffer::Average],
        count: u64,
    );
    Ok(Launch::Kernel(KernelLaunch::new("swap_average", grid_over(count), 0, params)?))
}

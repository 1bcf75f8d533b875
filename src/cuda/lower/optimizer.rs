//! SGD, with the learning rate and fp16's dynamic loss scale in device memory.

use anyhow::Result;

use super::params::params;
use super::{Lowering, Target};
use crate::cuda::program::{Address, BLOCK, Buffer, KernelLaunch, Launch};
use crate::cuda::scratch::{MAX_NORM_BLOCKS, NORM_BYTES};
use crate::ops::{Precision, RunOn, SgdUpdate};

/// Offsets in `Buffer::LossScaling`: `{scale f32, good_steps u32, skipped_steps u64, overflow i32}`.
const SCALE: usize = 0;
const GOOD_STEPS: usize = 4;
const SKIPPED_STEPS: usize = 8;
const OVERFLOW: usize = 16;

/// Groups of four gradients that a thread loads at once; `IN_FLIGHT` in `kernels/optimizer.cu`.
const IN_FLIGHT: usize = 4;

/// Threads per block of the update; `UPDATE_BLOCK` in `kernels/optimizer.cu`.
const UPDATE_BLOCK: usize = 512;

/// Blocks that have a thread for each aligned group of four parameters, and for each one before or after these groups.
fn blocks_of(parameters: usize, threads: usize) -> [usize; 2] {
    [(parameters / 4 + 6).div_ceil(threads), 1]
}

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
        let count = weights.len;
        let (block_counters, loss_scale, overflow) =
            (Buffer::BlockCounters, lowering.loss_scaling(SCALE), lowering.loss_scaling(OVERFLOW));
        // One pass over the gradients computes whatever is needed of them.
        let blocks = count.div_ceil(4 * IN_FLIGHT * BLOCK).max(1);
        let norm = op.clip_norm.map(|_| Address::at(Buffer::GradientNorm));
        if let Some(norm) = norm {
            let partial = norm.plus(NORM_BYTES);
            let params = params!(
                target, 56 bytes, [gradients, loss_scale, partial, norm, overflow, block_counters], count: u64
            );
            lowering.launch("gradient_norm", [blocks.min(MAX_NORM_BLOCKS), 1], params)?;
        } else if lowering.is_fp16() {
            let params = params!(target, 24 bytes, [gradients, overflow], count: u64);
            lowering.launch("check_overflow", [blocks, 1], params)?;
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
        let blocks = blocks_of(count.saturating_sub(op.frozen), UPDATE_BLOCK);
        lowering.launch_of(UPDATE_BLOCK, "sgd", blocks, params)
    }
}

/// Exchanges `count` parameters with their average.
pub(in crate::cuda) fn swap_average(count: usize, target: Target) -> Result<Launch> {
    let params = params!(
        target, 32 bytes,
        [weights = Buffer::Parameters, weights_real = half_parameters(target), average = Buffer::Average],
        count: u64,
    );
    Ok(Launch::Kernel(KernelLaunch::new("swap_average", blocks_of(count, BLOCK), 0, params)?))
}

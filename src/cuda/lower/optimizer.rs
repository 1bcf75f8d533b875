//! SGD, with the learning rate and fp16's dynamic loss scale in device memory.

use anyhow::Result;

use super::Lowering;
use crate::cuda::program::{Address, BLOCK, Buffer, KernelLaunch, Launch, grid_over, params};
use crate::cuda::scratch::{MAX_NORM_BLOCKS, NORM_BYTES};
use crate::ops::{Precision, RunOn, SgdUpdate};

/// Places in `Buffer::LossScaling`: `{scale f32, good steps u32, skipped steps u64, overflow i32}`.
const SCALE: usize = 0;
const GOOD_STEPS: usize = 4;
const SKIPPED_STEPS: usize = 8;
const OVERFLOW: usize = 16;

params!(OverflowParams, 24 bytes, [gradients, overflow], count: u64);
params!(NormParams, 48 bytes, [gradients, loss_scale, partial, norm, arrived], count: u64);
params!(
    SgdParams, 136 bytes,
    [gradients, norm, weights, weights_real, buffer, average, rates, loss_scale, good_steps, skipped_steps, overflow,
    arrived],
    count: u64, frozen: u64, momentum: f32, weight_decay: f32, clip_norm: f32, decay: f32, rest: f32, nesterov: u32
);
params!(SwapParams, 32 bytes, [weights, weights_real, average], count: u64);

impl Lowering<'_> {
    /// A place in the loss scale's state; null where the precision has none.
    pub(super) fn loss_scaling(&self, place: usize) -> Address {
        if self.is_fp16() { Address::at(Buffer::LossScaling).plus(place) } else { Address::NULL }
    }
}

/// The rounded copy of the parameters; null where there is none.
fn half_parameters(precision: Precision) -> Address {
    if precision == Precision::Fp16 { Address::at(Buffer::HalfParameters) } else { Address::NULL }
}

impl RunOn<Lowering<'_>> for SgdUpdate {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let op = &self.op;
        let (gradients, arrived) = (lowering.address(self.gradients), Address::at(Buffer::BlockCounters));
        let (count, quads) = (self.weights.len as u64, self.weights.len.div_ceil(4));
        if lowering.is_fp16() {
            let params = OverflowParams { gradients, overflow: lowering.loss_scaling(OVERFLOW), count };
            lowering.launch_over("check_overflow", quads, &params)?;
        }
        let (norm, loss_scale) = (Address::at(Buffer::GradientNorm), lowering.loss_scaling(SCALE));
        if op.clip_norm.is_some() {
            let blocks = quads.div_ceil(BLOCK).clamp(1, MAX_NORM_BLOCKS);
            let params = NormParams { gradients, loss_scale, partial: norm.plus(NORM_BYTES), norm, arrived, count };
            lowering.launch("gradient_norm", [blocks, 1], &params)?;
        }
        let (decay, rest) = op.average_shares();
        let params = SgdParams {
            gradients,
            norm: op.clip_norm.map_or(Address::NULL, |_| norm),
            weights: lowering.address(self.weights),
            weights_real: half_parameters(lowering.target.precision),
            buffer: lowering.optional(self.momentum),
            average: lowering.optional(self.average),
            rates: Address::at(Buffer::LearningRates),
            loss_scale,
            good_steps: lowering.loss_scaling(GOOD_STEPS),
            skipped_steps: lowering.loss_scaling(SKIPPED_STEPS),
            overflow: lowering.loss_scaling(OVERFLOW),
            arrived,
            count,
            frozen: op.frozen as u64,
            momentum: op.momentum,
            weight_decay: op.weight_decay,
            clip_norm: op.clip_norm.unwrap_or(0.0),
            decay,
            rest,
            nesterov: op.nesterov.into(),
        };
        lowering.launch_over("sgd", quads, &params)
    }
}

/// Exchanges `count` parameters and their average.
pub(in crate::cuda) fn swap_average(count: usize, precision: Precision) -> Result<Launch> {
    let params = SwapParams {
        weights: Address::at(Buffer::Parameters),
        weights_real: half_parameters(precision),
        average: Address::at(Buffer::Average),
        count: count as u64,
    };
    Ok(Launch::Kernel(KernelLaunch::new("swap_average", grid_over(count), 0, &params)?))
}

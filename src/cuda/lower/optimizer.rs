//! Optimisers, with the learning rate, the number of updates and the dynamic loss scale of fp16 in device memory.

use anyhow::{Result, ensure};

use super::params::{Pod, params};
use super::{Lowering, Target};
use crate::cuda::program::{Address, BLOCK, Buffer, KernelLaunch, Launch};
use crate::cuda::scratch::{MAX_NORM_BLOCKS, NORM_BYTES};
use crate::ops::{Adam, Groups, MAX_GROUPS, Optimizer, OptimizerUpdate, Rule, RunOn, Sgd, Span};

/// Offsets in `Buffer::LossScaling`: `{scale f32, good_steps u32, skipped_steps u64, overflow i32}`.
pub(super) const SCALE: usize = 0;
const GOOD_STEPS: usize = 4;
const SKIPPED_STEPS: usize = 8;
pub(super) const OVERFLOW: usize = 16;

/// Groups of four gradients that a thread loads at once; `IN_FLIGHT` in `kernels/optimizer.cu`.
const IN_FLIGHT: usize = 4;

/// Blocks of a pass over the gradients, in which no thread is without any.
fn norm_blocks(count: usize) -> usize {
    count.div_ceil(4 * IN_FLIGHT * BLOCK).max(1)
}

/// The values from the last multiple of 16 bytes on, as a pass over the gradients reads them, and how many of these come
/// before the first value.
fn aligned(values: Span) -> (Span, usize) {
    let before = values.offset % 4;
    (Span { offset: values.offset - before, len: before + values.len, ..values }, before)
}

/// Threads per block of the update; `UPDATE_BLOCK` in `kernels/optimizer.cu`.
const UPDATE_BLOCK: usize = 512;

/// Blocks that have a thread for each aligned group of four parameters, and for each one before or after these groups.
fn blocks_of(parameters: usize, threads: usize) -> [usize; 2] {
    [(parameters / 4 + 6).div_ceil(threads), 1]
}

impl Lowering<'_> {
    /// The address at `offset` in the loss scale's state; `None` if the precision does not use loss scaling.
    pub(super) fn loss_scaling(&self, offset: usize) -> Option<Address> {
        self.target.precision.has_loss_scale().then(|| Address::at(Buffer::LossScaling).plus(offset))
    }

    /// With a loss scale, notes whether a gradient is not finite.
    pub(super) fn check_overflow(&mut self, gradients: Span) -> Result<()> {
        let Some(overflow) = self.loss_scaling(OVERFLOW) else { return Ok(()) };
        let (gradients, begin) = aligned(gradients);
        let count = gradients.len;
        let params = params!(self.target, 32 bytes, [gradients, overflow], begin: u64, count: u64);
        self.launch("check_overflow", [norm_blocks(count), 1], params)
    }

    /// Launches what computes the norm of fp32 values, and returns its address. Of gradients, it is that without the loss
    /// scale, and overflow is noted in the same pass.
    pub(super) fn norm_of(&mut self, values: Span, are_gradients: bool) -> Result<Address> {
        let (norm, (values, begin)) = (Address::at(Buffer::GradientNorm), aligned(values));
        let [loss_scale, overflow] =
            [SCALE, OVERFLOW].map(|offset| self.loss_scaling(offset).filter(|_| are_gradients));
        let (partial, count) = (norm.plus(NORM_BYTES), values.len);
        let params = params!(
            self.target, 64 bytes, [values, loss_scale, partial, norm, overflow, block_counters = Buffer::BlockCounters],
            begin: u64, count: u64,
        );
        self.launch("gradient_norm", [norm_blocks(count).min(MAX_NORM_BLOCKS), 1], params)?;
        Ok(norm)
    }
}

/// The rounded copy of the parameters; `None` unless activations are stored in 16 bits.
fn rounded_parameters(target: Target) -> Option<Buffer> {
    target.precision.is_16_bit().then_some(Buffer::RoundedParameters)
}

/// `Group` in `kernels/optimizer.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct GroupParams {
    end: u64,
    rate_scale: f32,
    weight_decay: f32,
}

// SAFETY: the fields have no padding between or after them.
unsafe impl Pod for [GroupParams; MAX_GROUPS] {}
const _: () = assert!(size_of::<GroupParams>() == 16);

/// The groups of `count` parameters as the kernel has them: the length of the frozen beginning, the groups, of which the
/// last has no end, and bits for those that are frozen, and for those that Muon updates.
fn groups_of(op: &Optimizer, groups: &Groups, count: usize) -> Result<(usize, [GroupParams; MAX_GROUPS], [u32; 2])> {
    let ranges = groups.ranges(count);
    ensure!(ranges.len() <= MAX_GROUPS, "{} groups of parameters; CUDA kernels take {MAX_GROUPS}", ranges.len());
    let mut all = [GroupParams { end: u64::MAX, rate_scale: 1.0, weight_decay: 0.0 }; MAX_GROUPS];
    let [mut frozen, mut matrices] = [0; 2];
    for (index, (range, group)) in ranges.iter().enumerate() {
        let end = if index + 1 == ranges.len() { u64::MAX } else { range.end as u64 };
        let weight_decay = op.weight_decay * group.decay_scale;
        all[index] = GroupParams { end, rate_scale: group.rate_scale, weight_decay };
        frozen |= u32::from(group.frozen) << index;
        matrices |= u32::from(group.is_matrix) << index;
    }
    Ok((groups.frozen_len(count), all, [frozen, matrices]))
}

impl RunOn<Lowering<'_>> for OptimizerUpdate {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, ref groups, weights, gradients, momentum: buffer, second_moment: second, average } = *self;
        let target = lowering.target;
        let count = weights.len;
        let (block_counters, loss_scale, overflow) =
            (Buffer::BlockCounters, lowering.loss_scaling(SCALE), lowering.loss_scaling(OVERFLOW));
        // One pass over the gradients computes whatever is needed of them.
        let (begin, groups, [frozen, matrices]) = groups_of(op, groups, count)?;
        let trained = gradients.from(begin);
        let norm = op.clip_norm.map(|_| lowering.norm_of(trained, true)).transpose()?;
        if norm.is_none() {
            lowering.check_overflow(trained)?;
        }
        let (decay, rest) = Optimizer { average_warm_up: false, ..*op }.average_coefficients(0);
        let (kernel, Sgd { momentum, nesterov }, adam) = match op.rule {
            Rule::Sgd(sgd) => ("sgd", sgd, Adam::default()),
            Rule::Adam(adam) => ("adam", Sgd::default(), adam),
            Rule::Muon(muon) => ("muon", muon.sgd, Adam::default()),
        };
        let params = params!(
            target, 312 bytes,
            [
                gradients, norm, weights, weights_real = rounded_parameters(target), buffer, second, average,
                rates = Buffer::LearningRates, loss_scale, good_steps = lowering.loss_scaling(GOOD_STEPS),
                skipped_steps = lowering.loss_scaling(SKIPPED_STEPS), overflow, updates = Buffer::UpdateCount,
                block_counters,
            ],
            begin: u64, count: u64, betas: [f64; 2] = adam.betas, groups: [GroupParams; MAX_GROUPS],
            momentum: f32, epsilon: f32 = adam.epsilon, clip_norm: f32 = op.clip_norm.unwrap_or(0.0),
            decay: f32, rest: f32, frozen: u32, matrices: u32, nesterov: u32, decoupled: u32 = adam.decoupled,
            warms_up: u32 = op.average_warm_up,
        );
        let blocks = blocks_of(count - begin, UPDATE_BLOCK);
        lowering.launch_of(UPDATE_BLOCK, kernel, blocks, params)
    }
}

/// Exchanges `count` parameters with their average.
pub(in crate::cuda) fn swap_average(count: usize, target: Target) -> Result<Launch> {
    let params = params!(
        target, 32 bytes,
        [weights = Buffer::Parameters, weights_real = rounded_parameters(target), average = Buffer::Average],
        count: u64,
    );
    Ok(Launch::Kernel(KernelLaunch::new("swap_average", blocks_of(count, BLOCK), 0, params)?))
}

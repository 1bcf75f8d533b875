//! SGD on CUDA, with the learning rate and fp16's dynamic loss scale in device memory.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaStream;

use super::kernels::{Arg, BLOCK};
use super::memory::{Buffer, Pinned};
use super::{Cuda, error};
use crate::ops::{Backend, LossScale, OptimizerOps, Region, Sgd};

/// What outlives a step.
pub(super) struct State {
    rates: Rates,
    scaling: Option<Scaling>,
    /// The norm of all gradients, and behind it the sums that it is made of: one for each block.
    norm: Buffer,
}

/// The most blocks that sum the gradients' squares.
const NORM_BLOCKS: usize = 1024;
/// Bytes of the norm, with what keeps the sums aligned.
const NORM: u64 = 16;

/// The learning rates of the steps that follow: `{next u64, last u64, rates f32[]}`, the first two being indices.
struct Rates {
    values: Pinned,
    capacity: usize,
}

/// Bytes of the indices before the rates.
const RATES: usize = 16;

impl Rates {
    fn new(stream: &Arc<CudaStream>, capacity: usize) -> Result<Self> {
        Ok(Self { values: Pinned::new(stream, RATES + 4 * capacity)?, capacity })
    }

    fn address(&self) -> u64 {
        self.values.device.address()
    }
}

/// fp16's loss scale: `{scale f32, good steps u32, skipped steps u64, overflow i32}` as the kernels take them.
struct Scaling {
    state: Pinned,
}

const SCALE: u64 = 0;
const GOOD_STEPS: u64 = 4;
const SKIPPED_STEPS: u64 = 8;
const OVERFLOW: u64 = 16;
const SCALING_LEN: usize = 24;

impl Scaling {
    fn at(&self, offset: u64) -> Arg {
        Arg::Pointer(self.state.device.address() + offset)
    }
}

impl State {
    pub fn new(stream: &Arc<CudaStream>, with_scaling: bool) -> Result<Self> {
        let scaling = with_scaling.then(|| -> Result<Scaling> {
            let mut state = Pinned::new(stream, SCALING_LEN)?;
            state.write(stream, &scaling_bytes(LossScale::default()))?;
            Ok(Scaling { state })
        });
        let norm = Buffer::zeroed(stream, NORM as usize + 4 * NORM_BLOCKS).map_err(error::driver)?;
        Ok(Self { rates: Rates::new(stream, 1)?, scaling: scaling.transpose()?, norm })
    }

    /// The scale's address, or null where there is none.
    pub fn loss_scale(&self) -> Arg {
        self.scaling.as_ref().map_or(Arg::Pointer(0), |scaling| scaling.at(SCALE))
    }
}

impl OptimizerOps for Cuda {
    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()> {
        let last = rates.len().checked_sub(1).context("there is no learning rate")? as u64;
        if self.optimizer.rates.capacity < rates.len() {
            self.graphs.clear(); // they know the old address
            self.synchronize()?;
            self.optimizer.rates = Rates::new(&self.stream, rates.len())?;
        }
        let mut bytes = [0_u64, last].map(u64::to_le_bytes).concat();
        bytes.extend(rates.iter().flat_map(|rate| rate.to_le_bytes()));
        self.optimizer.rates.values.write(&self.stream, &bytes)
    }

    fn sgd_step(&mut self, op: &Sgd) -> Result<()> {
        let memory = self.memory()?;
        let address = |region| Arg::Pointer(memory.region(region).0.address());
        let (weights, gradients) = (address(Region::Parameters), address(Region::Gradients));
        let momentum = if op.momentum == 0.0 { Arg::Pointer(0) } else { address(Region::Momentum) };
        let half = memory.half_parameters.as_ref().map_or(Arg::Pointer(0), |copy| Arg::Pointer(copy.address()));
        let count = memory.region(Region::Parameters).0.len() / 4;
        let (length, null) = (Arg::U64(count as u64), Arg::Pointer(0));
        let quads = count.div_ceil(4);
        let scaling = self.optimizer.scaling.as_ref();
        let at = |offset| scaling.map_or(null, |scaling| scaling.at(offset));
        if scaling.is_some() {
            self.launch("check_overflow", quads, &[gradients, at(OVERFLOW), length])?;
        }
        let (norm, sums) = (self.optimizer.norm.address(), self.optimizer.norm.address() + NORM);
        let arrived = Arg::Pointer(memory.arrived.address());
        if op.clip_norm.is_some() {
            let blocks = quads.div_ceil(BLOCK as usize).clamp(1, NORM_BLOCKS) as u32;
            let args = [gradients, at(SCALE), Arg::Pointer(sums), Arg::Pointer(norm), arrived, length];
            self.kernels.launch_grid(&self.stream, "gradient_norm", [blocks, 1], &args)?;
        }
        let (decay, rest) = op.average_shares();
        let args = [
            weights,
            half,
            gradients,
            momentum,
            Arg::Pointer(self.optimizer.rates.address()),
            at(SCALE),
            at(GOOD_STEPS),
            at(SKIPPED_STEPS),
            at(OVERFLOW),
            arrived,
            if op.average_decay.is_some() { address(Region::Average) } else { null },
            if op.clip_norm.is_some() { Arg::Pointer(norm) } else { null },
            length,
            Arg::U64(op.frozen as u64),
            Arg::F32(op.momentum),
            Arg::F32(op.weight_decay),
            Arg::F32(op.clip_norm.unwrap_or(0.0)),
            Arg::F32(decay),
            Arg::F32(rest),
            Arg::U32(op.nesterov.into()),
        ];
        self.launch("sgd", quads, &args)
    }

    fn swap_average(&mut self) -> Result<()> {
        let memory = self.memory()?;
        let (weights, average) = (memory.region(Region::Parameters).0, memory.region(Region::Average).0);
        ensure!(weights.len() == average.len(), "there is no average of the parameters");
        let half = memory.half_parameters.as_ref().map_or(0, Buffer::address);
        let count = weights.len() / 4;
        let pointers = [weights.address(), half, average.address()].map(Arg::Pointer);
        self.launch("swap_average", count, &[&pointers[..], &[Arg::U64(count as u64)]].concat())
    }

    fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        let Some(scaling) = &mut self.optimizer.scaling else { return Ok(None) };
        let bytes = scaling.state.read(&self.stream)?;
        let word = |offset: u64| bytes.get(offset as usize..).and_then(|rest| rest.first_chunk::<4>().copied());
        let (scale, good) = word(SCALE).zip(word(GOOD_STEPS)).context("the loss scale is cut")?;
        let skipped = bytes.get(SKIPPED_STEPS as usize..).and_then(|rest| rest.first_chunk::<8>().copied());
        Ok(Some(LossScale {
            scale: f32::from_le_bytes(scale),
            good_steps: u32::from_le_bytes(good),
            skipped_steps: u64::from_le_bytes(skipped.context("the loss scale is cut")?),
        }))
    }

    fn set_loss_scale(&mut self, loss_scale: LossScale) -> Result<()> {
        match &mut self.optimizer.scaling {
            Some(scaling) => scaling.state.write(&self.stream, &scaling_bytes(loss_scale)),
            None => Ok(()),
        }
    }
}

/// The state as the kernels know it, with no overflow seen.
fn scaling_bytes(loss_scale: LossScale) -> Vec<u8> {
    let mut bytes = loss_scale.scale.to_le_bytes().to_vec();
    bytes.extend(loss_scale.good_steps.to_le_bytes());
    bytes.extend(loss_scale.skipped_steps.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

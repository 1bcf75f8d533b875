//! The plan: the network's steps in order, fused, with a place for every buffer. No device is in it.

mod backward;
mod cost;
mod fusion;
mod memory;
mod profile;
mod schedule;
mod sequence;

pub use cost::Cost;
pub use profile::{StepTime, profile_step};
pub use sequence::{Sequence, TrainSettings};

use anyhow::Result;

use crate::network::{Network, Weights};
use crate::ops::{Backend, LossGradient, MemorySizes, Region, Span, Step};
use crate::shape::Shape;
use memory::Place;

/// Index of a buffer of the plan: an activation, a gradient, an argmax, a parameter.
pub type ValueId = usize;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward and backward: every activation lives until its last use in the backward pass.
    Training,
    /// Forward alone: an activation's memory is used again as soon as it was read.
    Inference,
}

/// How one network is run for batches of up to `max_batch`.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub max_batch: usize,
    pub forward: Vec<Step<ValueId>>,
    /// Empty for inference.
    pub backward: Vec<Step<ValueId>>,
    /// The network's input, `[max_batch][height][width][channels]`.
    pub input: ValueId,
    pub input_shape: Shape,
    /// `[max_batch][classes]`
    pub logits: ValueId,
    pub classes: usize,
    /// Floats of all parameters.
    pub parameter_count: usize,
    /// Where training begins to go back: the main head's logits, then those of heads that only help training.
    heads: Vec<(ValueId, LossGradient<ValueId>)>,
    /// All parameters, their gradients, momentum and averages.
    whole_regions: [ValueId; 4],
    /// Floats of all running statistics.
    statistics_len: usize,
    places: Vec<Place>,
    arena_len: usize,
    indices_len: usize,
    sample_columns: usize,
    max_channels: usize,
}

impl Plan {
    /// Plans `network` for batches of up to `max_batch`.
    pub fn new(network: &Network, mode: Mode, max_batch: usize) -> Result<Self> {
        schedule::schedule(network, mode, max_batch)
    }

    /// What a backend has to allocate for this plan, without an average of the weights; momentum only where it is used.
    pub fn memory_sizes(&self, momentum: bool) -> MemorySizes {
        let gradients = if self.mode == Mode::Training { self.parameter_count } else { 0 };
        MemorySizes {
            arena: self.arena_len,
            parameters: self.parameter_count,
            gradients,
            momentum: if momentum { gradients } else { 0 },
            average: 0,
            statistics: if self.mode == Mode::Training { 2 * self.statistics_len } else { self.statistics_len },
            indices: self.indices_len,
            sample_arena: self.arena_len.div_ceil(self.max_batch),
            sample_indices: self.indices_len.div_ceil(self.max_batch),
            columns: self.sample_columns * self.max_batch,
            sample_columns: self.sample_columns,
            max_channels: self.max_channels,
            max_batch: self.max_batch,
        }
    }
}

/// Puts weights where a plan's steps read them.
pub fn write_weights<B: Backend>(backend: &mut B, weights: &Weights) -> Result<()> {
    let regions = [(Region::Parameters, &weights.parameters), (Region::Statistics, &weights.statistics.values)];
    regions.into_iter().try_for_each(|(region, values)| backend.write(Span::new(region, 0, values.len()), values))
}

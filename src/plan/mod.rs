//! The plan: the network's steps in order, fused, with a place for every buffer. No device is in it.

mod backward;
mod cost;
mod describe;
mod execute;
mod fusion;
mod heads;
mod memory;
mod parts;
mod schedule;
mod step;

pub use cost::Cost;
pub use execute::{evaluate_step, first_train_step, forward, train_step, train_steps, try_out, write_weights};
pub use parts::{Part, StepTime, each_part, profile_step};
pub use step::{Step, StepKind};

use anyhow::Result;

use crate::network::Network;
use crate::ops::{LossGradient, MemorySizes, Span};

/// Index of a buffer of the plan: an activation, a gradient or an argmax.
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
    pub forward: Vec<Step>,
    /// Empty for inference.
    pub backward: Vec<Step>,
    /// The network's input, `[max_batch][height][width][channels]`.
    pub input: Span,
    /// `[max_batch][classes]`
    pub logits: Span,
    /// Where training begins to go back.
    pub loss_gradient: Option<LossGradient>,
    /// Logits of heads that only help training, and where it begins to go back from them.
    pub auxiliary: Vec<(Span, LossGradient)>,
    pub classes: usize,
    /// Floats of all parameters.
    pub parameter_count: usize,
    /// Floats of all running statistics.
    statistics_len: usize,
    spans: Vec<Span>,
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

    /// Spreads this much of every label over all classes, in training.
    pub fn smooth_labels(&mut self, smoothing: f32) {
        let auxiliary = self.auxiliary.iter_mut().map(|(_, gradient)| gradient);
        self.loss_gradient.iter_mut().chain(auxiliary).for_each(|gradient| gradient.smoothing = smoothing);
    }

    /// Where a buffer lies.
    pub fn span(&self, value: ValueId) -> Span {
        self.spans[value]
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

impl MemorySizes {
    /// Enough for either: two plans that are never run at once share their memory.
    pub fn union(self, other: Self) -> Self {
        Self {
            arena: self.arena.max(other.arena),
            parameters: self.parameters.max(other.parameters),
            gradients: self.gradients.max(other.gradients),
            momentum: self.momentum.max(other.momentum),
            average: self.average.max(other.average),
            statistics: self.statistics.max(other.statistics),
            indices: self.indices.max(other.indices),
            sample_arena: self.sample_arena.max(other.sample_arena),
            sample_indices: self.sample_indices.max(other.sample_indices),
            columns: self.columns.max(other.columns),
            sample_columns: self.sample_columns.max(other.sample_columns),
            max_channels: self.max_channels.max(other.max_channels),
            max_batch: self.max_batch.max(other.max_batch),
        }
    }
}

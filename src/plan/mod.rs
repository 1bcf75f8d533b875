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

use crate::network::Weights;
use crate::ops::{Backend, LossGradient, MemorySizes, Region, Span, Step};
use crate::shape::Shape;

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
    /// All of the regions that an update may name.
    whole_regions: [ValueId; 4],
    /// Where every buffer lies, for the largest batch.
    places: Vec<Span>,
    /// Without momentum and average.
    sizes: MemorySizes,
}

impl Plan {
    /// What a backend has to allocate for this plan, without an average of the weights; momentum only where it is used.
    pub fn memory_sizes(&self, momentum: bool) -> MemorySizes {
        MemorySizes { momentum: if momentum { self.sizes.gradients } else { 0 }, ..self.sizes }
    }
}

/// Puts weights where a plan's steps read them.
pub fn write_weights<B: Backend>(backend: &mut B, weights: &Weights) -> Result<()> {
    let regions = [(Region::Parameters, &weights.parameters), (Region::Statistics, &weights.statistics.values)];
    regions.into_iter().try_for_each(|(region, values)| backend.write(Span::new(region, 0, values.len()), values))
}

//! The plan: the network's fused steps in order, with an offset for every buffer. It is independent of the device.

mod backward;
mod cost;
mod fusion;
mod memory;
mod profile;
mod schedule;
mod sequence;

pub use cost::Cost;
pub use profile::{StepTime, profile_step};
pub use sequence::{Accumulation, Sequence, TrainSettings};

use anyhow::Result;

use crate::network::Weights;
use crate::ops::{Backend, Groups, LossGradient, MemorySizes, Region, Span, Step, TestViews};
use crate::shape::Shape;
use memory::ALIGNMENT;

/// Index of a buffer of the plan: an activation, a gradient, an argmax, a parameter.
pub type ValueId = usize;

/// The purpose of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward and backward: an activation stays alive until its last use in the backward pass.
    Training,
    /// Forward only: an activation's memory is reused after its last read.
    Inference,
    /// Forward as in evaluation, and backward from the last node to the input, to explain a network: nothing is fused,
    /// every activation and every gradient of one has a buffer of its own, and parameters have no gradients.
    Attribution(ReluGradient),
}

/// What the backward pass of [`Mode::Attribution`] computes at a ReLU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReluGradient {
    /// The gradient: that of the output where the input was positive.
    #[default]
    True,
    /// The ReLU of the output's gradient, whatever the input was (Zeiler and Fergus, "Visualizing and Understanding
    /// Convolutional Networks", 2013).
    Rectified,
}

/// The buffers of a node in a plan of [`Mode::Attribution`], which nothing overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `[max_batch][height][width][channels]`; a view has the buffer of its input.
    pub output: ValueId,
    /// The gradient of the last node with respect to this output, of the same shape.
    pub gradient: ValueId,
}

/// How to run a network on batches of up to `max_batch` samples.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub max_batch: usize,
    pub forward: Vec<Step<ValueId>>,
    /// Empty for inference.
    pub backward: Vec<Step<ValueId>>,
    /// The buffers of every node, if the mode is [`Mode::Attribution`]; `None` for nodes of auxiliary heads.
    pub kept: Vec<Option<Kept>>,
    /// The network's input, `[max_batch][height][width][channels]`.
    pub input: ValueId,
    pub input_shape: Shape,
    /// `[max_batch][classes]`
    pub logits: ValueId,
    pub classes: usize,
    /// The views of an image in an evaluation step.
    views: TestViews,
    /// The mean logits of several views, `[max_batch][classes]`.
    average: Option<ValueId>,
    /// The training images of a step before they are mixed, `[max_batch][height][width][channels]`, if they are.
    unmixed: Option<ValueId>,
    /// Total number of parameter values.
    pub parameter_count: usize,
    /// The groups of the parameters.
    groups: Groups,
    /// The matrices that Muon orthogonalises.
    matrices: Vec<Matrix>,
    /// The logits and loss gradients of the main head, then of the auxiliary heads.
    heads: Vec<(ValueId, LossGradient<ValueId>)>,
    /// The whole of each region in [`OptimizerUpdate::REGIONS`](crate::ops::OptimizerUpdate::REGIONS).
    whole_regions: [ValueId; 5],
    /// The whole of the region of summed gradients.
    gradient_sum: ValueId,
    /// The gradients from the first parameter on that is not frozen.
    trained_gradients: ValueId,
    /// The span of every buffer, for the largest batch.
    places: Vec<Span>,
    /// Memory sizes without optimiser state, average and summed gradients.
    sizes: MemorySizes,
}

/// A parameter that Muon updates.
#[derive(Clone, Debug)]
struct Matrix {
    name: String,
    rows: usize,
    weight: ValueId,
    gradient: ValueId,
    momentum: ValueId,
}

impl Plan {
    /// The same plan with these views in evaluation steps. Several need a buffer for their mean logits, which no other
    /// buffer overlaps.
    pub fn with_views(mut self, views: TestViews) -> Self {
        self.views = views;
        if views == TestViews::None {
            return self;
        }
        let len = self.max_batch * self.classes;
        self.average = Some(self.places.len());
        self.places.push(Span::new(Region::Arena, self.sizes.arena, len));
        self.sizes.arena += len.next_multiple_of(ALIGNMENT);
        self.sizes.sample_arena = self.sizes.arena.div_ceil(self.max_batch);
        self
    }

    /// The same plan, but if `mixing` is true, the images of a training step are mixed. Before, they are in a buffer beside
    /// the input that the rest of the step may use.
    pub fn with_mixing(mut self, mixing: bool) -> Self {
        if !mixing {
            return self;
        }
        let input = self.places[self.input];
        let offset = if input.offset >= input.len { 0 } else { (input.offset + input.len).next_multiple_of(ALIGNMENT) };
        self.unmixed = Some(self.places.len());
        self.places.push(Span { offset, ..input });
        self.sizes.arena = self.sizes.arena.max((offset + input.len).next_multiple_of(ALIGNMENT));
        self.sizes.sample_arena = self.sizes.arena.div_ceil(self.max_batch);
        self
    }

    /// The memory that this plan needs, without a weight average, second moments and summed gradients; with momentum
    /// buffers only if `momentum` is true.
    pub fn memory_sizes(&self, momentum: bool) -> MemorySizes {
        MemorySizes { momentum: if momentum { self.sizes.gradients } else { 0 }, ..self.sizes }
    }
}

/// Writes weights to the regions that a plan's steps read.
pub fn write_weights<B: Backend>(backend: &mut B, weights: &Weights) -> Result<()> {
    let regions = [(Region::Parameters, &weights.parameters), (Region::Statistics, &weights.statistics.values)];
    regions.into_iter().try_for_each(|(region, values)| backend.write(Span::new(region, 0, values.len()), values))
}

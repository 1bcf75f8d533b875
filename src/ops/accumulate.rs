//! Gradient accumulation: an optimiser step over several micro-batches.

use super::operands::operator;

/// Which micro-batch of an optimiser step it is, of at least two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatch {
    First,
    Middle,
    Last,
}

operator! {
    /// What a micro-batch contributes to the gradient of an optimiser step, the mean over the images of all its
    /// micro-batches: `weight` times its gradient, where `weight` is its share of these images.
    ///
    /// The first sets `sum = weight · gradients`, the next add `sum = sum + weight · gradients`, and the last leaves the
    /// total where the update reads it, `gradients = sum + weight · gradients`.
    pub struct AccumulateGradients {
        value weight: f32,
        value micro_batch: MicroBatch,
        updates gradients: B,
        updates sum: B,
    }
    describe(self) { "sum of the micro-batches' gradients".into() }
    flops(self, len) {
        match self.micro_batch {
            MicroBatch::First => len(self.sum),
            MicroBatch::Middle | MicroBatch::Last => 2 * len(self.sum),
        }
    }
    elements(self, len) {
        match self.micro_batch {
            MicroBatch::First => 2 * len(self.sum),
            MicroBatch::Middle | MicroBatch::Last => 3 * len(self.sum),
        }
    }
}

//! Dropout (`torch.nn.Dropout`) with a mask that is drawn again wherever it is needed, and never kept.

use std::marker::PhantomData;

use super::operands::operator;

/// Dropout of one node of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Of an element to become zero, at least 0 and below 1; the others are multiplied by `1 / (1 − probability)`.
    pub probability: f32,
    /// Which of the network's dropouts it is: each has random numbers of its own.
    pub index: u32,
}

impl Dropout {
    /// An element is kept where its 32 random bits are at least this.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 4_294_967_296.0) as u32
    }

    /// What kept elements are multiplied by.
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }
}

operator! {
    /// `output = kept · scale · input`: forward, and with gradients backward, as the mask of a step is the same in both. The
    /// random bits of an element follow from the seed, the optimiser step, [`Dropout::index`] and the element's place in the
    /// batch alone, and are the same on every backend: word `element mod 4` of [`crate::rng::draw`] at position
    /// `step · 2³² + element / 4`.
    pub struct DropoutPass {
        value op: Dropout,
        reads input: B,
        writes output: B,
    }
    describe(self) { "dropout".into() }
    flops(self, len) { len(self.output) }
}

operator! {
    /// The end of the optimiser step that the masks belong to. It touches no buffer.
    pub struct NextDropoutStep {
        reads nothing: PhantomData<B>,
    }
    describe(self) { "next step's masks".into() }
    flops(self, _len) { 0 }
}

impl<B> Default for NextDropoutStep<B> {
    fn default() -> Self {
        Self { nothing: PhantomData }
    }
}

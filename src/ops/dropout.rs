//! Dropout (`torch.nn.Dropout`). The mask is never stored: every pass that needs it generates it again.

use std::marker::PhantomData;

use super::operands::operator;

/// One dropout of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of an element to be zeroed, in `[0, 1)`; other elements are multiplied by `1 / (1 − probability)`.
    pub probability: f32,
    /// The number of this dropout within the network; each has its own random numbers.
    pub index: u32,
}

impl Dropout {
    /// An element is kept if its 32 random bits are at least this.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 4_294_967_296.0) as u32
    }

    /// The factor for kept elements.
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }
}

operator! {
    /// `output = mask · scale · input`: the forward pass, and with gradients the backward pass, because a step's mask
    /// is the same in both. The random bits of an element depend only on the seed, the step (of the
    /// batches so far), [`Dropout::index`] and the element's index in the batch. They are the same on every backend: word `element mod
    /// 4` of [`crate::rng::draw`] at position `step · 2³² + element / 4`.
    pub struct DropoutPass {
        value op: Dropout,
        reads input: B,
        writes output: B,
    }
    describe(self) { "dropout".into() }
    flops(self, len) { len(self.output) }
}

operator! {
    /// Advances the step that the masks are generated for. It accesses no buffer.
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

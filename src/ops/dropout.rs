//! Dropout (`torch.nn.Dropout`) with a mask that is drawn anew wherever it is needed, and never kept.

use anyhow::Result;

use super::Span;

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

/// Dropout. The random bits of an element follow from the seed, the optimiser step, [`Dropout::index`] and the
/// element's place in the batch alone, and are the same on every backend: word `element mod 4` of
/// [`crate::rng::draw`] at position `step · 2³² + element / 4`.
pub trait DropoutOps {
    /// The seed, and the optimiser step at hand, from 0.
    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()>;

    /// `output = kept · scale · input` over `len` elements: forward, and with gradients backward, as the mask of a step
    /// is the same in both.
    fn dropout(&mut self, op: &Dropout, len: usize, input: Span, output: Span) -> Result<()>;

    /// The optimiser step at hand is over.
    fn next_dropout_step(&mut self) -> Result<()>;
}

//! Batch normalisation (`torch.nn.BatchNorm2d`), with the residual sum and the activation that may end it.

use anyhow::{Result, ensure};

use super::Activation;
use super::bias::ended;
use super::operands::operator;
use crate::shape::Shape;

/// Normalises every channel over the batch and all pixels: `y = weight · (x − mean) / √(variance + epsilon) + bias`.
///
/// In training, mean and (biased) variance are the batch's, and the running ones, of which the variance is unbiased, move
/// towards them: `running = (1 − momentum) · running + momentum · batch`. In evaluation the running ones are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm2d {
    pub input: Shape,
    pub momentum: f32,
    pub epsilon: f32,
}

impl BatchNorm2d {
    /// With PyTorch's defaults.
    pub fn new(input: Shape) -> Self {
        Self { input, momentum: 0.1, epsilon: 1e-5 }
    }

    /// Values of each channel in a training batch.
    ///
    /// # Errors
    /// Where there is but one: it has no variance.
    pub fn training_rows(&self, batch: usize) -> Result<usize> {
        let rows = batch * self.input.pixels();
        ensure!(
            rows > 1,
            "batch normalisation of one image of one pixel has no variance to divide by; choose a --batch-size that \
             leaves no single image for the last step of an epoch, or larger images"
        );
        Ok(rows)
    }
}

operator! {
    /// `output = activation(normalised input + residual)`; in training also the running statistics.
    pub struct BatchNorm2dForward {
        value op: BatchNorm2d,
        value activation: Activation,
        reads input: B,
        /// `[channels]`
        reads weight: B,
        /// `[channels]`
        reads bias: B,
        /// May be the input.
        writes output: B,
        /// Running mean and running variance, `[2][channels]`; written in training alone.
        updates running: B where saved,
        /// In training, receives the batch's mean and inverse deviation, `[2][channels]`; none in evaluation.
        writes saved: Option<B>,
        /// What is added before the activation, of the input's shape.
        reads residual: Option<B>,
    }
    describe(self) {
        let added = if self.residual.is_some() { "batch norm + sum" } else { "batch norm" };
        ended(added, false, self.activation)
    }
    flops(self, len) { 5 * self.passes() * len(self.input) }
    elements(self, len) { self.passes() * len(self.input) + self.residual.map_or(0, len) + len(self.output) }
}

impl<B> BatchNorm2dForward<B> {
    /// Statistics and values need a pass each.
    fn passes(&self) -> usize {
        if self.saved.is_some() { 2 } else { 1 }
    }
}

operator! {
    /// All gradients. With `g = d_output · activation′` and `x̂` the normalised input: `d_bias = Σ g`, `d_weight = Σ g · x̂`,
    /// `d_input = weight / deviation · (g − mean(g) − x̂ · mean(g · x̂))`, sums and means over the batch and all pixels.
    pub struct BatchNorm2dBackward {
        value op: BatchNorm2d,
        value activation: Activation,
        reads input: B,
        /// Written where there is `output`.
        updates d_output: B where output,
        reads weight: B,
        reads bias: B,
        reads saved: B,
        /// The output, where a residual was added: it gives the activation's derivative, and `d_output` is taken back
        /// through the activation in place, which makes it the residual's gradient. Without a residual, the derivative
        /// follows from the input.
        reads output: Option<B>,
        /// May be `d_output`; none where nothing before learns.
        writes d_input: Option<B>,
        writes d_weight: B,
        writes d_bias: B,
    }
    describe(self) { ended("gradients of batch norm", false, self.activation) }
    flops(self, len) { 10 * len(self.input) }
    elements(self, len) {
        let sums = len(self.input) + len(self.d_output) + self.output.map_or(0, |output| 2 * len(output));
        sums + self.d_input.map_or(0, |d_input| len(self.input) + len(self.d_output) + len(d_input))
    }
}

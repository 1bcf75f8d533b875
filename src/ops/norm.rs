//! Batch normalisation (`torch.nn.BatchNorm2d`), optionally fused with a residual addition and an activation.

use anyhow::{Result, ensure};

use super::Activation;
use super::bias::describe_fused;
use super::operands::operator;
use crate::shape::Shape;

/// Normalises every channel over the batch and all pixels: `y = weight · (x − mean) / √(variance + epsilon) + bias`.
///
/// Training uses the batch's mean and biased variance, and updates the running statistics with the batch's mean and
/// unbiased variance: `running = (1 − momentum) · running + momentum · batch`. Evaluation uses the running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm2d {
    pub input: Shape,
    pub momentum: f32,
    pub epsilon: f32,
}

impl BatchNorm2d {
    /// Batch normalisation with PyTorch's defaults.
    pub fn new(input: Shape) -> Self {
        Self { input, momentum: 0.1, epsilon: 1e-5 }
    }

    /// Values per channel in a training batch.
    ///
    /// # Errors
    /// If there is only one value: it has no variance.
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
    /// `output = activation(normalised input + residual)`. Training also updates the running statistics.
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
        /// Running mean and running variance, `[2][channels]`; written only in training.
        updates running: B where saved,
        /// In training, the batch's mean and inverse standard deviation, `[2][channels]`; `None` in evaluation.
        writes saved: Option<B>,
        /// A residual of the input's shape, added before the activation.
        reads residual: Option<B>,
    }
    describe(self) {
        let added = if self.residual.is_some() { "batch norm + sum" } else { "batch norm" };
        describe_fused(added, false, self.activation)
    }
    flops(self, len) { 5 * self.passes() * len(self.input) }
    elements(self, len) { self.passes() * len(self.input) + self.residual.map_or(0, len) + len(self.output) }
}

impl<B> BatchNorm2dForward<B> {
    /// Passes over the input: one for the statistics, one for the output.
    fn passes(&self) -> usize {
        if self.saved.is_some() { 2 } else { 1 }
    }
}

operator! {
    /// All gradients. With `g = d_output · activation′` and the normalised input `x̂`: `d_bias = Σ g`, `d_weight = Σ g
    /// · x̂`, `d_input = weight / deviation · (g − mean(g) − x̂ · mean(g · x̂))`; sums and means are over the batch and
    /// all pixels.
    pub struct BatchNorm2dBackward {
        value op: BatchNorm2d,
        value activation: Activation,
        reads input: B,
        /// Written only if there is an `output`.
        updates d_output: B where output,
        reads weight: B,
        reads bias: B,
        reads saved: B,
        /// The output, if a residual was added: it determines the activation's derivative. `d_output` is then
        /// multiplied by that derivative in place, which makes it the residual's gradient. Without a residual, the
        /// derivative is computed from the input.
        reads output: Option<B>,
        /// May be `d_output`; `None` if no earlier node needs a gradient.
        writes d_input: Option<B>,
        writes d_weight: B,
        writes d_bias: B,
    }
    describe(self) { describe_fused("gradients of batch norm", false, self.activation) }
    flops(self, len) { 10 * len(self.input) }
    elements(self, len) {
        let sums = len(self.input) + len(self.d_output) + self.output.map_or(0, |output| 2 * len(output));
        sums + self.d_input.map_or(0, |d_input| len(self.input) + len(self.d_output) + len(d_input))
    }
}

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
    /// The batch's statistics, before a [`BatchNorm2dForward`] in training; also updates the running statistics.
    pub struct BatchNorm2dStatistics {
        value op: BatchNorm2d,
        reads input: B,
        /// Running mean and running variance, `[2][channels]`.
        updates running: B,
        /// The batch's mean and inverse standard deviation, `[2][channels]`.
        writes saved: B,
    }
    describe(self) { "statistics of batch norm".into() }
    flops(self, len) { 5 * len(self.input) }
    elements(self, len) { len(self.input) }
}

operator! {
    /// The epilogue of a convolution whose output is normalised: its statistics, as by [`BatchNorm2dStatistics`].
    pub struct StatisticsEpilogue {
        value op: BatchNorm2d,
        updates running: B,
        writes saved: B,
    }
}

impl<B> StatisticsEpilogue<B> {
    /// The epilogue as a separate pass.
    pub fn of_input(self, input: B) -> BatchNorm2dStatistics<B> {
        let Self { op, running, saved } = self;
        BatchNorm2dStatistics { op, input, running, saved }
    }
}

operator! {
    /// `output = activation(normalised input + residual)`.
    pub struct BatchNorm2dForward {
        value op: BatchNorm2d,
        value activation: Activation,
        reads input: B,
        /// `[channels]`
        reads weight: B,
        /// `[channels]`
        reads bias: B,
        /// `[2][channels]`: the means, then the running variances or, in training, the batch's inverse standard
        /// deviations.
        reads statistics: B,
        /// Whether the statistics are those of the batch.
        value training: bool,
        /// May be the input.
        writes output: B,
        /// A residual of the input's shape, added before the activation.
        reads residual: Option<B>,
    }
    describe(self) {
        let added = if self.residual.is_some() { "batch norm + sum" } else { "batch norm" };
        describe_fused(added, false, self.activation)
    }
    flops(self, len) { 5 * len(self.input) }
    elements(self, len) { len(self.input) + self.residual.map_or(0, len) + len(self.output) }
}

operator! {
    /// The gradients of weight and bias: with `g = d_output · activation′` and the normalised input `x̂`, `d_bias = Σ g`
    /// and `d_weight = Σ g · x̂`, over the batch and all pixels.
    pub struct BatchNorm2dBackwardSums {
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
        writes d_weight: B,
        writes d_bias: B,
    }
    describe(self) { describe_fused("sums of batch norm's gradient", false, self.activation) }
    flops(self, len) { 5 * len(self.input) }
    elements(self, len) { len(self.input) + len(self.d_output) + self.output.map_or(0, |output| 2 * len(output)) }
}

operator! {
    /// The epilogue of an input gradient that is the gradient of a batch normalisation's output, and of no other
    /// operator's: its sums, as by [`BatchNorm2dBackwardSums`].
    pub struct NormEpilogue {
        value op: BatchNorm2d,
        value activation: Activation,
        reads input: B,
        reads weight: B,
        reads bias: B,
        reads saved: B,
        /// As of [`BatchNorm2dBackwardSums`]: with it, the gradient is multiplied by the activation's derivative.
        reads output: Option<B>,
        writes d_weight: B,
        writes d_bias: B,
    }
}

impl<B> NormEpilogue<B> {
    /// The epilogue as a separate pass over the gradient.
    pub fn of_gradient(self, d_output: B) -> BatchNorm2dBackwardSums<B> {
        let Self { op, activation, input, weight, bias, saved, output, d_weight, d_bias } = self;
        BatchNorm2dBackwardSums { op, activation, input, d_output, weight, bias, saved, output, d_weight, d_bias }
    }
}

operator! {
    /// The input gradient, after the sums: `d_input = weight / deviation · (g − mean(g) − x̂ · mean(g · x̂))`, with
    /// means over the batch and all pixels. With running statistics, which do not depend on the input, `d_input = weight
    /// / √(variance + epsilon) · g`.
    pub struct BatchNorm2dBackwardInput {
        value op: BatchNorm2d,
        /// [`Activation::Identity`] if `d_output` has been multiplied by the derivative.
        value activation: Activation,
        reads input: B,
        reads d_output: B,
        reads weight: B,
        reads bias: B,
        /// `[2][channels]`: the means, then the batch's inverse standard deviations or, without sums, the running
        /// variances.
        reads statistics: B,
        /// Both sums, or neither if the statistics are the running ones.
        reads d_weight: Option<B>,
        reads d_bias: Option<B>,
        /// May be `d_output`.
        writes d_input: B,
    }
    describe(self) { describe_fused("input gradient of batch norm", false, self.activation) }
    flops(self, len) { 5 * len(self.input) }
    elements(self, len) { len(self.input) + len(self.d_output) + len(self.d_input) }
}

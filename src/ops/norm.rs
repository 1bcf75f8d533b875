//! Batch normalisation (`torch.nn.BatchNorm2d`), with the residual sum and the activation that may end it.

use anyhow::{Result, ensure};

use super::{Activation, Span};
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

/// Spans of a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm2dForward {
    pub input: Span,
    /// `[channels]`
    pub weight: Span,
    /// `[channels]`
    pub bias: Span,
    /// Running mean and running variance, `[2][channels]`.
    pub running: Span,
    /// In training, receives the batch's mean and inverse deviation, `[2][channels]`; none in evaluation.
    pub saved: Option<Span>,
    /// What is added before the activation, of the input's shape.
    pub residual: Option<Span>,
    pub activation: Activation,
    /// May be the input.
    pub output: Span,
}

/// Spans of all gradients.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm2dBackward {
    pub activation: Activation,
    pub input: Span,
    pub weight: Span,
    pub bias: Span,
    pub saved: Span,
    /// The output, where a residual was added: it tells the activation's derivative, and `d_output` is taken back
    /// through the activation in place, which makes it the residual's gradient. Without a residual, the derivative
    /// follows from the input.
    pub output: Option<Span>,
    pub d_output: Span,
    pub d_weight: Span,
    pub d_bias: Span,
    /// May be `d_output`; none where nothing before learns.
    pub d_input: Option<Span>,
}

/// Batch normalisation, forward and backward.
pub trait NormOps {
    /// `output = activation(normalised input + residual)`; in training also the running statistics.
    fn batch_norm2d_forward(&mut self, op: &BatchNorm2d, batch: usize, spans: BatchNorm2dForward) -> Result<()>;

    /// With `g = d_output · activation′` and `x̂` the normalised input: `d_bias = Σ g`, `d_weight = Σ g · x̂`,
    /// `d_input = weight / deviation · (g − mean(g) − x̂ · mean(g · x̂))`, sums and means over the batch and all pixels.
    fn batch_norm2d_backward(&mut self, op: &BatchNorm2d, batch: usize, spans: BatchNorm2dBackward) -> Result<()>;
}

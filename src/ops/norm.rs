//! Batch normalisation (`torch.nn.BatchNorm2d`), with the residual sum and the activation that may end it.

use anyhow::{Result, ensure};

use super::bias::ended;
use super::operands::{Buffers, Operands, mapped};
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

/// `output = activation(normalised input + residual)`; in training also the running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm2dForward<B = Span> {
    pub op: BatchNorm2d,
    pub activation: Activation,
    pub input: B,
    /// `[channels]`
    pub weight: B,
    /// `[channels]`
    pub bias: B,
    /// Running mean and running variance, `[2][channels]`.
    pub running: B,
    /// In training, receives the batch's mean and inverse deviation, `[2][channels]`; none in evaluation.
    pub saved: Option<B>,
    /// What is added before the activation, of the input's shape.
    pub residual: Option<B>,
    /// May be the input.
    pub output: B,
}

/// All gradients. With `g = d_output · activation′` and `x̂` the normalised input: `d_bias = Σ g`, `d_weight = Σ g · x̂`,
/// `d_input = weight / deviation · (g − mean(g) − x̂ · mean(g · x̂))`, sums and means over the batch and all pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm2dBackward<B = Span> {
    pub op: BatchNorm2d,
    pub activation: Activation,
    pub input: B,
    pub weight: B,
    pub bias: B,
    pub saved: B,
    /// The output, where a residual was added: it gives the activation's derivative, and `d_output` is taken back
    /// through the activation in place, which makes it the residual's gradient. Without a residual, the derivative
    /// follows from the input.
    pub output: Option<B>,
    pub d_output: B,
    pub d_weight: B,
    pub d_bias: B,
    /// May be `d_output`; none where nothing before learns.
    pub d_input: Option<B>,
}

mapped!(BatchNorm2dForward {
    values: op, activation; buffers: input, weight, bias, running, output; optional: saved, residual; parts:
});
mapped!(BatchNorm2dBackward {
    values: op, activation; buffers: input, weight, bias, saved, d_output, d_weight, d_bias; optional: output, d_input;
    parts:
});

impl<B: Copy> Buffers<B> for BatchNorm2dForward<B> {
    fn reads(&self) -> Vec<B> {
        [self.input, self.weight, self.bias, self.running].into_iter().chain(self.residual).collect()
    }

    fn writes(&self) -> Vec<B> {
        let statistics = self.saved.map(|saved| [self.running, saved]).into_iter().flatten();
        std::iter::once(self.output).chain(statistics).collect()
    }
}

impl<B: Copy> Operands<B> for BatchNorm2dForward<B> {
    fn describe(&self) -> String {
        let added = if self.residual.is_some() { "batch norm + sum" } else { "batch norm" };
        ended(added, false, self.activation)
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        5 * self.passes() * len(self.input)
    }

    fn elements(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.passes() * len(self.input) + self.residual.map_or(0, len) + len(self.output)
    }
}

impl<B> BatchNorm2dForward<B> {
    /// Statistics and values need a pass each.
    fn passes(&self) -> usize {
        if self.saved.is_some() { 2 } else { 1 }
    }
}

impl<B: Copy> Buffers<B> for BatchNorm2dBackward<B> {
    fn reads(&self) -> Vec<B> {
        let all = [self.input, self.d_output, self.weight, self.bias, self.saved];
        all.into_iter().chain(self.output).collect()
    }

    fn writes(&self) -> Vec<B> {
        let in_place = self.output.map(|_| self.d_output);
        in_place.into_iter().chain(self.d_input).chain([self.d_weight, self.d_bias]).collect()
    }
}

impl<B: Copy> Operands<B> for BatchNorm2dBackward<B> {
    fn describe(&self) -> String {
        ended("gradients of batch norm", false, self.activation)
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        10 * len(self.input)
    }

    fn elements(&self, len: &dyn Fn(B) -> usize) -> usize {
        let sums = len(self.input) + len(self.d_output) + self.output.map_or(0, |output| 2 * len(output));
        sums + self.d_input.map_or(0, |d_input| len(self.input) + len(self.d_output) + len(d_input))
    }
}

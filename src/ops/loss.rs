//! Softmax cross-entropy (`torch.nn.CrossEntropyLoss`, mean), its gradient, and the metrics that stay on the device.

use super::operands::operator;

/// Sums over the samples since the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// Samples whose largest logit (the first of equals) is the label's.
    pub correct: u64,
    pub samples: u64,
    pub steps: u64,
    /// The first step, counted from the reset, whose loss was NaN or infinite.
    pub first_bad_step: Option<u64>,
}

impl Metrics {
    /// Mean loss over the samples.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples.max(1) as f64
    }

    /// Correct over all, from 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples.max(1) as f64
    }
}

/// Mean loss and accuracy of one step, before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    pub loss: f32,
    pub accuracy: f32,
}

operator! {
    /// What training needs of the loss besides its value.
    pub struct LossGradient {
        /// `[batch][classes]`
        writes d_logits: B,
        /// The bias gradient of the layer that made the logits: the column sums of `d_logits`.
        writes d_bias: Option<B>,
        /// What of the label is spread over all classes (`CrossEntropyLoss(label_smoothing=…)`), from 0 to below 1.
        value smoothing: f32,
        /// The weight of a head that only helps training, after the main head of the same step; none is the main head.
        value auxiliary: Option<f32>,
    }
}

impl<B> LossGradient<B> {
    /// Of the main head, without smoothing.
    pub fn new(d_logits: B) -> Self {
        Self { d_logits, d_bias: None, smoothing: 0.0, auxiliary: None }
    }

    /// The head's part of the total loss.
    pub fn weight(&self) -> f32 {
        self.auxiliary.unwrap_or(1.0)
    }
}

operator! {
    /// `loss = mean(logsumexp(logits) − logits[label])`, added to the metrics, with the labels of the last gather; with
    /// `gradient`, also `d_logits = (softmax(logits) − onehot(label)) / batch`.
    ///
    /// With smoothing ε the label counts `1 − ε` and every class `ε / classes` more. An auxiliary head's loss and gradient
    /// are multiplied by its weight; its loss is added to that of the step, and nothing else is counted.
    pub struct SoftmaxCrossEntropy {
        value classes: usize,
        /// `[batch][classes]`
        reads logits: B,
        part gradient: Option<LossGradient<B>>,
    }
    describe(self) {
        if self.gradient.is_some() { "softmax, loss, its gradient, metrics" } else { "softmax, loss, metrics" }.into()
    }
    flops(self, len) { 5 * len(self.logits) }
}

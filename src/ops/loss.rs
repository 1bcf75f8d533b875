//! Softmax cross-entropy (`torch.nn.CrossEntropyLoss` with mean reduction), its gradient, and the metrics on the
//! device.

use super::operands::operator;

/// Sums over the samples since the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Sum of the per-sample losses.
    pub loss_sum: f64,
    /// Samples whose largest logit (the first, if several are equal) is the label's.
    pub correct: u64,
    pub samples: u64,
    /// Batches.
    pub steps: u64,
    /// The first batch, counted from the reset, whose loss was NaN or infinite.
    pub first_bad_step: Option<u64>,
}

impl Metrics {
    /// Mean loss per sample.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples.max(1) as f64
    }

    /// The fraction of correct samples, from 0 to 1.
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
    /// The gradient of the loss, and how training weights it.
    pub struct LossGradient {
        /// `[batch][classes]`
        writes d_logits: B,
        /// The bias gradient of the layer that computes the logits: the column sums of `d_logits`.
        writes d_bias: Option<B>,
        /// Label smoothing (`CrossEntropyLoss(label_smoothing=…)`), in `[0, 1)`.
        value smoothing: f32,
        /// Whether the batch was mixed: the target is then `own · onehot(label) + other · onehot(label of the partner)`,
        /// with the weights of the current [`Mix`](super::Mix).
        value mixed: bool,
        /// Whether each class has a weight (`CrossEntropyLoss(weight=…)`).
        value weighted: bool,
        /// The loss weight of an auxiliary classifier, which runs after the main head in the same step; `None` for the
        /// main head.
        value auxiliary: Option<f32>,
    }
}

impl<B> LossGradient<B> {
    /// The gradient for the main head, without label smoothing, mixing or weights.
    pub fn new(d_logits: B) -> Self {
        Self { d_logits, d_bias: None, smoothing: 0.0, mixed: false, weighted: false, auxiliary: None }
    }

    /// The head's weight in the total loss.
    pub fn weight(&self) -> f32 {
        self.auxiliary.unwrap_or(1.0)
    }
}

operator! {
    /// `loss = mean(logsumexp(logits) − logits[label])` for the labels of the last gather, added to the metrics. With
    /// `gradient`, also `d_logits = (softmax(logits) − onehot(label)) / batch`.
    ///
    /// With label smoothing ε, the target is `(1 − ε) · onehot(label) + ε / classes`. With weights, the loss of a sample is
    /// `Σ weight · target · (logsumexp(logits) − logits)` over the classes, and the mean divides by the sum of the labels'
    /// weights; if the batch was mixed, by its size, as PyTorch's loss of probabilities does. The metrics receive the
    /// mean, times the batch's size. The loss and gradient of an auxiliary
    /// head are multiplied by its weight. Its loss is added to the step's loss; samples and steps are not counted again.
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

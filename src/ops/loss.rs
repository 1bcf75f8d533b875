//! Softmax cross-entropy (`torch.nn.CrossEntropyLoss`, mean), its gradient, and the metrics that stay on the device.

use anyhow::Result;

use super::Span;

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

/// What training wants of the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossGradient {
    /// `[batch][classes]`
    pub d_logits: Span,
    /// The bias gradient of the layer that made the logits: the column sums of `d_logits`.
    pub d_bias: Option<Span>,
    /// What of the label is spread over all classes (`CrossEntropyLoss(label_smoothing=…)`), from 0 to below 1.
    pub smoothing: f32,
    /// The weight of a head that only helps training, after the main head of the same step; none is the main head.
    pub auxiliary: Option<f32>,
}

impl LossGradient {
    /// The head's part of the total loss.
    pub fn weight(&self) -> f32 {
        self.auxiliary.unwrap_or(1.0)
    }
}

impl From<Span> for LossGradient {
    fn from(d_logits: Span) -> Self {
        Self { d_logits, d_bias: None, smoothing: 0.0, auxiliary: None }
    }
}

/// The loss and its metrics. Labels are those of the last gather.
pub trait LossOps {
    /// `loss = mean(logsumexp(logits) − logits[label])`, added to the metrics; with `gradient`, also
    /// `d_logits = (softmax(logits) − onehot(label)) / batch`. `logits` are `[batch][classes]`.
    ///
    /// With smoothing ε the label counts `1 − ε` and every class `ε / classes` more. An auxiliary head's loss and gradient
    /// are multiplied by its weight; its loss is added to that of the step, and nothing else is counted.
    fn softmax_cross_entropy(
        &mut self,
        classes: usize,
        batch: usize,
        logits: Span,
        gradient: Option<LossGradient>,
    ) -> Result<()>;

    /// Sets the labels of the next loss, where no gather does.
    fn set_labels(&mut self, labels: &[u32]) -> Result<()>;

    /// Starts the metrics from `metrics` (zero, or those of an interrupted epoch).
    fn set_metrics(&mut self, metrics: Metrics) -> Result<()>;

    /// The metrics up to here; waits for the device.
    fn read_metrics(&mut self) -> Result<Metrics>;

    /// The metrics, or those of a moment ago, where having them costs nothing: `None` where it would hold up the device.
    fn peek_metrics(&mut self) -> Option<Metrics>;

    /// Keeps the loss of every training step (with a gradient) from now on, for at most `capacity` steps between two calls of
    /// [`LossOps::take_step_losses`].
    fn log_steps(&mut self, capacity: usize) -> Result<()>;

    /// The losses of the steps since the last call; waits for the device.
    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>>;
}

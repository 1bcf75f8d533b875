//! What a step has to do at the least: arithmetic, and bytes read and written once.

use super::{Plan, StepKind};
use crate::ops::{GradientEpilogue, Sgd, Span};

/// The least work of a step, from which its share of the machine's limits follows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add is two.
    pub flops: f64,
    /// Bytes of every operand, once, in fp32.
    pub bytes: f64,
}

impl Cost {
    /// Of `flops` operations over buffers of `elements` in all.
    fn new(flops: usize, elements: usize) -> Self {
        Self { flops: flops as f64, bytes: 4.0 * elements as f64 }
    }
}

impl StepKind {
    /// The cost on a batch of `batch`.
    pub fn cost(&self, plan: &Plan, batch: usize) -> Cost {
        // Spans are those of the largest batch.
        let len = |value: usize| plan.span(value).len / plan.max_batch * batch;
        let elements = |values: &[usize]| values.iter().map(|&value| len(value)).sum::<usize>();
        let with = |values: &[usize], parameters: Span| elements(values) + parameters.len;
        let read_by = |epilogue: &Option<GradientEpilogue<usize>>| epilogue.map_or(0, |epilogue| len(epilogue.output));
        match *self {
            Self::Conv2dForward { ref op, weight, input, output, ref pool, .. } => {
                let pooled = pool.map_or(0, |pool| len(pool.output) + pool.argmax.map_or(0, len));
                Cost::new(2 * len(output) * op.patch_len(), with(&[input, output], weight) + pooled)
            }
            Self::Conv2dBackwardWeight { ref op, d_weight, input, d_output } => {
                Cost::new(2 * len(d_output) * op.patch_len(), with(&[input, d_output], d_weight))
            }
            Self::Conv2dBackwardInput { ref op, weight, d_output, d_input, ref epilogue } => {
                let elements = with(&[d_output, d_input], weight) + read_by(epilogue);
                Cost::new(2 * len(d_output) * op.patch_len(), elements)
            }
            Self::LinearForward { ref op, weight, input, output, .. } => {
                Cost::new(2 * batch * op.weight_len(), with(&[input, output], weight))
            }
            Self::LinearBackwardWeight { ref op, d_weight, input, d_output, .. } => {
                Cost::new(2 * batch * op.weight_len(), with(&[input, d_output], d_weight))
            }
            Self::LinearBackwardInput { ref op, weight, d_output, d_input, ref epilogue } => {
                Cost::new(2 * batch * op.weight_len(), with(&[d_output, d_input], weight) + read_by(epilogue))
            }
            // Reads both, writes the gradient back.
            Self::BiasActivationBackward { output, d_output, .. } => {
                Cost::new(2 * len(d_output), elements(&[output, d_output, d_output]))
            }
            Self::BatchNorm2dForward { .. } | Self::BatchNorm2dBackward { .. } => self.norm_cost(len),
            Self::MaxPool2dForward { ref op, input, output, argmax } => {
                let area = op.window.kernel * op.window.kernel;
                Cost::new(area * len(output), elements(&[input, output]) + argmax.map_or(0, len))
            }
            Self::MaxPool2dBackward { d_output, argmax, d_input, ref epilogue, .. } => {
                Cost::new(len(d_output), elements(&[d_output, argmax, d_input]) + read_by(epilogue))
            }
            Self::AvgPool2dForward { ref op, input: all, output: means }
            | Self::AvgPool2dBackward { ref op, d_input: all, d_output: means } => {
                Cost::new(op.window.kernel * op.window.kernel * len(means), elements(&[all, means]))
            }
            Self::AdaptiveAvgPool2dForward { input: all, output: means, .. }
            | Self::AdaptiveAvgPool2dBackward { d_input: all, d_output: means, .. } => {
                Cost::new(len(all), elements(&[all, means]))
            }
            // Squares, their sum and a power; backward about twice that.
            Self::LrnForward { ref op, input, output, .. } => {
                Cost::new((op.size + 4) * len(output), elements(&[input, output]))
            }
            Self::LrnBackward { ref op, input, d_output, d_input, .. } => {
                Cost::new((2 * op.size + 8) * len(d_input), elements(&[input, d_output, d_input]))
            }
            Self::SubsampleForward { output: written, .. } | Self::SubsampleBackward { d_input: written, .. } => {
                Cost::new(0, 2 * len(written))
            }
            _ => self.elementwise_cost(batch),
        }
    }

    /// Of steps that read and write each value once.
    fn elementwise_cost(&self, batch: usize) -> Cost {
        match *self {
            Self::Dropout { len, .. } => Cost::new(batch * len, 2 * batch * len),
            Self::ActivationForward { len, .. } => Cost::new(batch * len, 2 * batch * len),
            Self::ActivationBackward { len, .. } => Cost::new(batch * len, 3 * batch * len),
            Self::AddForward { len, .. } | Self::Accumulate { len, .. } => Cost::new(batch * len, 3 * batch * len),
            Self::Copy { len, .. } => Cost::new(0, 2 * batch * len),
            Self::CopyChannels { ref op, .. } => Cost::new(0, 2 * batch * op.pixels * op.channels),
            _ => Cost::default(),
        }
    }

    /// Of batch normalisations: statistics and values need a pass each.
    fn norm_cost(&self, len: impl Fn(usize) -> usize) -> Cost {
        match *self {
            Self::BatchNorm2dForward { residual, saved, input, output, .. } => {
                let passes = if saved.is_some() { 2 } else { 1 };
                let elements = passes * len(input) + residual.map_or(0, &len) + len(output);
                Cost::new(5 * passes * len(input), elements)
            }
            Self::BatchNorm2dBackward { input, output, d_output, d_input, .. } => {
                let sums = len(input) + len(d_output) + output.map_or(0, |output| 2 * len(output));
                let rest = d_input.map_or(0, |d_input| len(input) + len(d_output) + len(d_input));
                Cost::new(10 * len(input), sums + rest)
            }
            _ => Cost::default(),
        }
    }
}

/// Gathering a batch: a byte read and a number written for every value.
pub fn gather_cost(plan: &Plan, batch: usize) -> Cost {
    let elements = plan.input.len / plan.max_batch * batch;
    Cost { flops: 3.0 * elements as f64, bytes: 5.0 * elements as f64 }
}

/// The loss and its gradient.
pub fn loss_cost(plan: &Plan, batch: usize) -> Cost {
    Cost::new(5 * batch * plan.classes, 2 * batch * plan.classes)
}

/// One update of all parameters: gradient and weight read, weight written; a momentum buffer and an average read and
/// written; for clipping, the gradients read once more.
pub fn update_cost(plan: &Plan, sgd: &Sgd) -> Cost {
    let (mut operations, mut buffers) = if sgd.momentum != 0.0 { (6, 5) } else { (4, 3) };
    if sgd.average_decay.is_some() {
        (operations, buffers) = (operations + 3, buffers + 2);
    }
    if sgd.clip_norm.is_some() {
        (operations, buffers) = (operations + 3, buffers + 1);
    }
    Cost::new(operations * plan.parameter_count, buffers * plan.parameter_count)
}

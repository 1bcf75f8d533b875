//! Runs a plan's steps on a backend.

use anyhow::{Context, Result};

use super::{Mode, Plan, Step, StepKind};
use crate::network::Weights;
use crate::ops::{
    Backend, BatchNorm2dBackward, BatchNorm2dForward, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward,
    LinearBackwardInput, LinearBackwardWeight, LinearForward, MaxPool2dBackward, Recording, Region, Sgd, Span, Subset,
};

/// Puts weights where a plan's steps read them.
pub fn write_weights<B: Backend>(backend: &mut B, weights: &Weights) -> Result<()> {
    let regions = [(Region::Parameters, &weights.parameters), (Region::Statistics, &weights.statistics.values)];
    regions.into_iter().try_for_each(|(region, values)| backend.write(Span::new(region, 0, values.len()), values))
}

/// One optimiser step on the next `batch` training images.
pub fn train_step<B: Backend>(backend: &mut B, plan: &Plan, sgd: &Sgd, batch: usize) -> Result<()> {
    train_steps(backend, plan, sgd, batch, 1)
}

/// That many optimiser steps as one recording, on `batch` images each; of images that are streamed, one step.
pub fn train_steps<B: Backend>(backend: &mut B, plan: &Plan, sgd: &Sgd, batch: usize, steps: usize) -> Result<()> {
    train_steps_as(backend, Recording::TrainSteps { batch, steps }, plan, sgd, batch)
}

/// The first step of a run whose weights are averaged: the average becomes the weights themselves, as in PyTorch's
/// `AveragedModel`. It is never recorded, for the steps that follow are others.
pub fn first_train_step<B: Backend>(backend: &mut B, plan: &Plan, sgd: &Sgd, batch: usize) -> Result<()> {
    let average_decay = sgd.average_decay.map(|_| 0.0);
    train_steps_as(backend, Recording::Once, plan, &Sgd { average_decay, ..*sgd }, batch)
}

fn train_steps_as<B: Backend>(
    backend: &mut B,
    recording: Recording,
    plan: &Plan,
    sgd: &Sgd,
    batch: usize,
) -> Result<()> {
    let steps = if let Recording::TrainSteps { steps, .. } = recording { steps } else { 1 };
    backend.prepare_batch(Subset::Train, batch)?;
    backend.run(recording, |backend| (0..steps).try_for_each(|_| run_train_step(backend, plan, sgd, batch)))
}

fn run_train_step<B: Backend>(backend: &mut B, plan: &Plan, sgd: &Sgd, batch: usize) -> Result<()> {
    backend.gather_normalise(Subset::Train, batch, plan.input)?;
    run_steps(backend, plan, &plan.forward, batch)?;
    backend.softmax_cross_entropy(plan.classes, batch, plan.logits, plan.loss_gradient)?;
    for &(logits, gradient) in &plan.auxiliary {
        backend.softmax_cross_entropy(plan.classes, batch, logits, Some(gradient))?;
    }
    run_backward(backend, plan, batch)?;
    backend.sgd_step(sgd)
}

/// Loss and accuracy of the next `batch` images of the test set, added to the metrics.
pub fn evaluate_step<B: Backend>(backend: &mut B, plan: &Plan, batch: usize) -> Result<()> {
    backend.prepare_batch(Subset::Test, batch)?;
    backend.run(Recording::EvaluateStep { batch }, |backend| {
        backend.gather_normalise(Subset::Test, batch, plan.input)?;
        run_steps(backend, plan, &plan.forward, batch)?;
        backend.softmax_cross_entropy(plan.classes, batch, plan.logits, None)
    })
}

/// Runs forward, and where the plan has one backward, on whatever is in memory, so that a backend makes its choices before
/// the first step. What it leaves in the arena and in the gradients means nothing.
pub fn try_out<B: Backend>(backend: &mut B, plan: &Plan, batch: usize) -> Result<()> {
    backend.run(Recording::Once, |backend| {
        run_steps(backend, plan, &plan.forward, batch)?;
        run_backward(backend, plan, batch)
    })?;
    match plan.mode {
        Mode::Training => {
            backend.compare_branches(Recording::train_step(batch), |backend| run_backward(backend, plan, batch))
        }
        Mode::Inference => Ok(()),
    }
}

/// The logits of the `batch` inputs that were written to `plan.input`.
pub fn forward<B: Backend>(backend: &mut B, plan: &Plan, batch: usize) -> Result<()> {
    backend.run(Recording::Forward { batch }, |backend| run_steps(backend, plan, &plan.forward, batch))
}

fn run_backward<B: Backend>(backend: &mut B, plan: &Plan, batch: usize) -> Result<()> {
    run_steps(backend, plan, &plan.backward, batch)?;
    backend.join()
}

fn run_steps<B: Backend>(backend: &mut B, plan: &Plan, steps: &[Step], batch: usize) -> Result<()> {
    for step in steps {
        run_step(backend, plan, &step.kind, batch).with_context(|| step.label.clone())?;
    }
    Ok(())
}

/// One call of the backend.
pub(super) fn run_step<B: Backend>(backend: &mut B, plan: &Plan, kind: &StepKind, n: usize) -> Result<()> {
    let at = |value| plan.span(value);
    match *kind {
        StepKind::Conv2dForward { ref op, activation, weight, bias, input, output, pool } => {
            let pool = pool.map(|pool| pool.map(at));
            let spans = Conv2dForward { input: at(input), weight, bias, activation, output: at(output), pool };
            backend.conv2d_forward(op, n, spans)
        }
        StepKind::Conv2dBackwardWeight { ref op, d_weight, input, d_output } => {
            let spans = Conv2dBackwardWeight { input: at(input), d_output: at(d_output), d_weight };
            backend.conv2d_backward_weight(op, n, spans)
        }
        StepKind::Conv2dBackwardInput { ref op, weight, d_output, d_input, epilogue } => {
            let epilogue = epilogue.map(|epilogue| epilogue.map(at));
            let spans = Conv2dBackwardInput { d_output: at(d_output), weight, d_input: at(d_input), epilogue };
            backend.conv2d_backward_input(op, n, spans)
        }
        StepKind::LinearForward { ref op, activation, weight, bias, input, output, signs } => {
            let (input, output, signs) = (at(input), at(output), signs.map(at));
            let spans = LinearForward { input, weight, bias, activation, output, signs };
            backend.linear_forward(op, n, spans)
        }
        StepKind::LinearBackwardWeight { ref op, d_weight, d_bias, input, d_output } => {
            let spans = LinearBackwardWeight { input: at(input), d_output: at(d_output), d_weight, d_bias };
            backend.linear_backward_weight(op, n, spans)
        }
        StepKind::LinearBackwardInput { ref op, weight, d_output, d_input, epilogue } => {
            let epilogue = epilogue.map(|epilogue| epilogue.map(at));
            let spans = LinearBackwardInput { d_output: at(d_output), weight, d_input: at(d_input), epilogue };
            backend.linear_backward_input(op, n, spans)
        }
        StepKind::BiasActivationBackward { activation, rows, channels, d_bias, output, d_output } => {
            backend.bias_activation_backward(activation, n * rows, channels, at(output), at(d_output), d_bias)
        }
        StepKind::BatchNorm2dForward { ref op, activation, weight, bias, running, saved, input, residual, output } => {
            let (input, residual, output) = (at(input), residual.map(at), at(output));
            let spans = BatchNorm2dForward { input, weight, bias, running, saved, residual, activation, output };
            backend.batch_norm2d_forward(op, n, spans)
        }
        StepKind::BatchNorm2dBackward {
            ref op,
            activation,
            weight,
            bias,
            saved,
            d_weight,
            d_bias,
            input,
            output,
            d_output,
            d_input,
        } => {
            let (input, output, d_output, d_input) = (at(input), output.map(at), at(d_output), d_input.map(at));
            let spans = BatchNorm2dBackward {
                activation,
                input,
                weight,
                bias,
                saved,
                output,
                d_output,
                d_weight,
                d_bias,
                d_input,
            };
            backend.batch_norm2d_backward(op, n, spans)
        }
        StepKind::MaxPool2dForward { ref op, input, output, argmax } => {
            backend.max_pool2d_forward(op, n, at(input), at(output), argmax.map(at))
        }
        StepKind::MaxPool2dBackward { ref op, d_output, argmax, d_input, epilogue } => {
            let epilogue = epilogue.map(|epilogue| epilogue.map(at));
            let (d_output, argmax, d_input) = (at(d_output), at(argmax), at(d_input));
            backend.max_pool2d_backward(op, n, MaxPool2dBackward { d_output, argmax, d_input, epilogue })
        }
        StepKind::AvgPool2dForward { ref op, input, output } => {
            backend.avg_pool2d_forward(op, n, at(input), at(output))
        }
        StepKind::AvgPool2dBackward { ref op, d_output, d_input } => {
            backend.avg_pool2d_backward(op, n, at(d_output), at(d_input))
        }
        StepKind::AdaptiveAvgPool2dForward { ref op, input, output } => {
            backend.adaptive_avg_pool2d_forward(op, n, at(input), at(output))
        }
        StepKind::AdaptiveAvgPool2dBackward { ref op, d_output, d_input } => {
            backend.adaptive_avg_pool2d_backward(op, n, at(d_output), at(d_input))
        }
        StepKind::LrnForward { ref op, rows, input, output } => {
            backend.lrn_forward(op, n * rows, at(input), at(output))
        }
        StepKind::LrnBackward { ref op, rows, input, d_output, d_input } => {
            backend.lrn_backward(op, n * rows, at(input), at(d_output), at(d_input))
        }
        StepKind::Dropout { ref op, len, input, output } => backend.dropout(op, n * len, at(input), at(output)),
        StepKind::NextDropoutStep => backend.next_dropout_step(),
        StepKind::ActivationForward { op, len, input, output } => {
            backend.activation_forward(op, n * len, at(input), at(output))
        }
        StepKind::ActivationBackward { op, len, output, d_output, d_input } => {
            backend.activation_backward(op, n * len, at(output), at(d_output), at(d_input))
        }
        StepKind::AddForward { len, a, b, output } => backend.add_forward(n * len, at(a), at(b), at(output)),
        StepKind::Accumulate { len, term, sum } => backend.accumulate(n * len, at(term), at(sum)),
        StepKind::Copy { len, source, target } => backend.copy(n * len, at(source), at(target)),
        StepKind::SubsampleForward { ref op, input, output } => backend.subsample_forward(op, n, at(input), at(output)),
        StepKind::SubsampleBackward { ref op, d_output, d_input } => {
            backend.subsample_backward(op, n, at(d_output), at(d_input))
        }
        StepKind::CopyChannels { ref op, source, target } => backend.copy_channels(op, n, at(source), at(target)),
    }
}

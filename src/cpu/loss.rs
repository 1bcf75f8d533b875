//! Softmax cross-entropy and metrics on the CPU.

use anyhow::{Result, ensure};

use super::Cpu;
use crate::ops::{Activation, BiasActivationBackward, LossGradient, Metrics, RunOn, SoftmaxCrossEntropy, StepLoss};

/// State that persists across steps.
#[derive(Default)]
pub(super) struct State {
    /// Labels of the current batch.
    pub labels: Vec<u32>,
    pub metrics: Metrics,
    /// The losses since they were last taken, if they are logged.
    pub step_losses: Option<Vec<StepLoss>>,
}

impl RunOn<Cpu> for SoftmaxCrossEntropy {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { classes, logits: logits_span, gradient } = self;
        let batch = logits_span.len / classes;
        let d_logits_span = gradient.map_or(logits_span.first(0), |gradient| gradient.d_logits);
        let [logits, d_logits] = cpu.memory.floats([logits_span, d_logits_span])?;
        ensure!(cpu.loss.labels.len() == batch, "{} labels for a batch of {batch}", cpu.loss.labels.len());
        let smoothing = gradient.map_or(0.0, |gradient| gradient.smoothing);
        let weight = gradient.map_or(1.0, |gradient| gradient.weight());
        let (mut loss_sum, mut correct) = (0.0_f64, 0);
        for (sample, (row, &label)) in logits.chunks_exact(classes).zip(&cpu.loss.labels).enumerate() {
            let label = label as usize;
            ensure!(label < classes, "label {label} is out of range for a network with {classes} classes");
            let (best, max) = first_maximum(row);
            let exp_sum: f32 = row.iter().map(|logit| (logit - max).exp()).sum();
            // Not ln(Σ) + max − x: the loss of a confident prediction would be lost to cancellation.
            loss_sum += f64::from(exp_sum.ln() - target(row, label, max, smoothing));
            correct += u64::from(best == label);
            if !d_logits.is_empty() {
                let d_row = &mut d_logits[sample * classes..][..classes];
                for (d, logit) in d_row.iter_mut().zip(row) {
                    *d = weight * ((logit - max).exp() / exp_sum - smoothing / classes as f32) / batch as f32;
                }
                d_row[label] -= weight * (1.0 - smoothing) / batch as f32;
            }
        }
        match gradient.and_then(|gradient| gradient.auxiliary) {
            Some(weight) => cpu.loss.add_auxiliary(f64::from(weight) * loss_sum, batch),
            None => cpu.loss.add(loss_sum, correct, batch, gradient.is_some()),
        }
        let Some(LossGradient { d_logits: d_output, d_bias: d_bias @ Some(_), .. }) = gradient else { return Ok(()) };
        let activation = Activation::Identity;
        BiasActivationBackward { activation, channels: classes, output: logits_span, d_output, d_bias }.run_on(cpu)
    }
}

/// The logit of the smoothed target, minus the maximum.
fn target(row: &[f32], label: usize, max: f32, smoothing: f32) -> f32 {
    let target = row[label] - max;
    if smoothing == 0.0 {
        return target;
    }
    let mean = row.iter().map(|logit| logit - max).sum::<f32>() / row.len() as f32;
    (1.0 - smoothing) * target + smoothing * mean
}

impl State {
    /// Adds the weighted loss of an auxiliary head to the last step.
    fn add_auxiliary(&mut self, loss_sum: f64, samples: usize) {
        self.metrics.loss_sum += loss_sum;
        if !loss_sum.is_finite() && self.metrics.first_bad_step.is_none() {
            self.metrics.first_bad_step = Some(self.metrics.steps.saturating_sub(1));
        }
        if let Some(last) = self.step_losses.as_mut().and_then(|losses| losses.last_mut()) {
            last.loss += (loss_sum / samples as f64) as f32;
        }
    }

    fn add(&mut self, loss_sum: f64, correct: u64, samples: usize, log: bool) {
        let metrics = &mut self.metrics;
        metrics.loss_sum += loss_sum;
        metrics.correct += correct;
        metrics.samples += samples as u64;
        if !loss_sum.is_finite() && metrics.first_bad_step.is_none() {
            metrics.first_bad_step = Some(metrics.steps);
        }
        metrics.steps += 1;
        if let Some(losses) = self.step_losses.as_mut().filter(|_| log) {
            let loss = (loss_sum / samples as f64) as f32;
            losses.push(StepLoss { loss, accuracy: correct as f32 / samples as f32 });
        }
    }
}

/// Index and value of the first maximum; NaN counts as the largest value, as in PyTorch.
fn first_maximum(row: &[f32]) -> (usize, f32) {
    let mut best = (0, row[0]);
    for (index, &value) in row.iter().enumerate().skip(1) {
        if value > best.1 || (value.is_nan() && !best.1.is_nan()) {
            best = (index, value);
        }
    }
    best
}

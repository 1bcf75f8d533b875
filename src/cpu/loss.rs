//! Softmax cross-entropy and metrics on the CPU.

use anyhow::{Result, bail, ensure};

use super::runtime::scratch::{self, Buffer};
use super::{Cpu, Real, RunAs};
use crate::ops::{
    Activation, BiasActivationBackward, LossGradient, Metrics, Mix, RunOn, SoftmaxCrossEntropy, StepLoss,
};

/// State that persists across steps.
#[derive(Default)]
pub(super) struct State {
    /// Labels of the current batch.
    pub labels: Vec<u32>,
    /// The weight of each class, if losses are weighted.
    pub weights: Vec<f32>,
    pub metrics: Metrics,
    /// The losses since they were last taken, if they are logged.
    pub step_losses: Option<Vec<StepLoss>>,
}

impl RunAs for SoftmaxCrossEntropy {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { classes, logits: logits_span, gradient } = self;
        let (batch, set) = (logits_span.len / classes, cpu.instructions);
        let d_logits_span = gradient.map_or(logits_span.first(0), |gradient| gradient.d_logits);
        let [logits, d_logits] = cpu.memory.values::<R, _>([logits_span, d_logits_span])?;
        ensure!(cpu.loss.labels.len() == batch, "{} labels for a batch of {batch}", cpu.loss.labels.len());
        let labels = &cpu.loss.labels;
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            bail!("label {label} is out of range for a network with {classes} classes");
        }
        let weights = gradient.filter(|gradient| gradient.weighted).map(|_| &*cpu.loss.weights);
        ensure!(weights.is_none_or(|weights| weights.len() == classes), "the {classes} classes have no weights");
        let mix = gradient.filter(|gradient| gradient.mixed).map(|_| cpu.mix.current()).transpose()?;
        let divisor = match weights {
            Some(weights) if mix.is_none() => labels.iter().map(|&label| f64::from(weights[label as usize])).sum(),
            _ => batch as f64,
        };
        let weight = gradient.map_or(1.0, |gradient| gradient.weight());
        let (mut loss_sum, mut correct) = (0.0_f64, 0);
        for (sample, row) in logits.chunks_exact(classes).enumerate() {
            let [label, partner] = [sample, Mix::partner(sample, batch)].map(|sample| labels[sample] as usize);
            let parts = mix.map_or([(label, 1.0), (label, 0.0)], |mix| [(label, mix.own), (partner, mix.other)]);
            let target = Target { parts, smoothing: gradient.map_or(0.0, |gradient| gradient.smoothing), weights };
            scratch::with_floats(set, row, Buffer::Converted, |row| {
                let (best, max) = first_maximum(row);
                let exp_sum: f32 = row.iter().map(|logit| (logit - max).exp()).sum();
                // Not ln(Σ) + max − x: the loss of a confident prediction would be lost to cancellation.
                loss_sum += f64::from(target.mass(classes) * exp_sum.ln() - target.logit(row, max));
                correct += u64::from(best == label);
                if !d_logits.is_empty() {
                    let d_row = &mut d_logits[sample * classes..][..classes];
                    scratch::with_output(set, d_row, |d_row| {
                        target.gradient(row, max, exp_sum, weight, divisor as f32, d_row);
                    });
                }
            });
        }
        loss_sum *= batch as f64 / divisor;
        match gradient.and_then(|gradient| gradient.auxiliary) {
            Some(weight) => cpu.loss.add_auxiliary(f64::from(weight) * loss_sum, batch),
            None => cpu.loss.add(loss_sum, correct, batch, gradient.is_some()),
        }
        let Some(LossGradient { d_logits: d_output, d_bias: d_bias @ Some(_), .. }) = gradient else { return Ok(()) };
        let activation = Activation::Identity;
        BiasActivationBackward { activation, channels: classes, output: logits_span, d_output, d_bias }.run_on(cpu)
    }
}

/// The target of a sample: its label and that of its partner with their probabilities, smoothed, times the weights of
/// the classes.
struct Target<'a> {
    parts: [(usize, f32); 2],
    smoothing: f32,
    weights: Option<&'a [f32]>,
}

impl Target<'_> {
    fn weight(&self, class: usize) -> f32 {
        self.weights.map_or(1.0, |weights| weights[class])
    }

    /// The labels with their weighted probabilities before smoothing.
    fn labels(&self) -> impl Iterator<Item = (usize, f32)> {
        let present = self.parts.iter().filter(|(_, probability)| *probability != 0.0);
        present.map(|&(label, probability)| (label, probability * self.weight(label)))
    }

    /// The sum of the target over the classes.
    fn mass(&self, classes: usize) -> f32 {
        let Some(weights) = self.weights else { return 1.0 };
        let labels: f32 = self.labels().map(|(_, probability)| probability).sum();
        (1.0 - self.smoothing) * labels + self.smoothing * (weights.iter().sum::<f32>() / classes as f32)
    }

    /// Σ target · (logit − max)
    fn logit(&self, row: &[f32], max: f32) -> f32 {
        let target = self.labels().map(|(label, probability)| probability * (row[label] - max)).sum();
        if self.smoothing == 0.0 {
            return target;
        }
        let all = row.iter().enumerate().map(|(class, logit)| self.weight(class) * (logit - max));
        (1.0 - self.smoothing) * target + self.smoothing * (all.sum::<f32>() / row.len() as f32)
    }

    /// Writes the gradient of the loss, times `weight` and divided by `divisor`.
    fn gradient(&self, row: &[f32], max: f32, exp_sum: f32, weight: f32, divisor: f32, d_row: &mut [f32]) {
        let (mass, spread) = (self.mass(row.len()), self.smoothing / row.len() as f32);
        for (class, (d, logit)) in d_row.iter_mut().zip(row).enumerate() {
            *d = weight * (mass * ((logit - max).exp() / exp_sum) - self.weight(class) * spread) / divisor;
        }
        for (label, probability) in self.labels() {
            d_row[label] -= weight * (1.0 - self.smoothing) * probability / divisor;
        }
    }
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

//! Optimisers on the CPU: one pass over the flat buffers, group by group.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{Adam, Group, Optimizer, OptimizerUpdate, Rule, RunOn, Sgd, Span};

impl RunOn<Cpu> for OptimizerUpdate {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let Self { op, groups, weights, gradients, momentum, second_moment, average } = *self;
        let learning_rate = *cpu.learning_rates.front().context("no learning rate was set")?;
        if cpu.learning_rates.len() > 1 {
            cpu.learning_rates.pop_front();
        }
        let is_muon = matches!(op.rule, Rule::Muon(_));
        ensure!(!(is_muon && op.clip_norm.is_some()), "gradients cannot be clipped with Muon");
        let factor = match op.clip_norm {
            Some(clip_norm) => {
                Optimizer::clip_factor(clip_norm, cpu.norm(gradients.from(groups.frozen_len(gradients.len)))?)
            }
            None => 1.0,
        };
        let nothing = weights.first(0);
        let or_nothing = |span: Option<Span>| span.unwrap_or(nothing);
        let spans = [weights, gradients, or_nothing(momentum), or_nothing(second_moment), or_nothing(average)];
        let [weights, gradients, momentum, second_moment, average] = cpu.memory.update(spans)?;
        for (range, group) in groups.ranges(weights.len()).into_iter().filter(|(_, group)| !group.frozen) {
            let scales = Scales::new(&op, &group, learning_rate, factor);
            let weights = &mut weights[range.clone()];
            let (momentum, gradients) = (part(momentum, &range), &gradients[range.clone()]);
            match op.rule {
                Rule::Sgd(sgd) => update_sgd(sgd, &scales, weights, gradients, momentum),
                // A step along a direction, with decoupled weight decay, is one of SGD without momentum.
                Rule::Muon(_) if group.is_matrix => update_sgd(Sgd::default(), &scales, weights, gradients, &mut []),
                Rule::Muon(muon) => update_sgd(muon.sgd, &scales, weights, gradients, momentum),
                Rule::Adam(adam) => {
                    let step = AdamStep::new(&adam, cpu.updates, &scales);
                    update_adam(&step, weights, gradients, momentum, part(second_moment, &range));
                }
            }
            update_average(op.average_coefficients(cpu.updates), weights, part(average, &range));
        }
        cpu.updates += 1;
        Ok(())
    }
}

/// The part of a buffer for a range of parameters; nothing of a buffer that is not in use.
fn part<'a>(buffer: &'a mut [f32], range: &Range<usize>) -> &'a mut [f32] {
    buffer.get_mut(range.clone()).unwrap_or_default()
}

/// What an update of a group multiplies by: its learning rate and weight decay, and the factor of the gradients.
struct Scales {
    learning_rate: f32,
    weight_decay: f32,
    factor: f32,
}

impl Scales {
    fn new(op: &Optimizer, group: &Group, learning_rate: f32, factor: f32) -> Self {
        let weight_decay = op.weight_decay * group.decay_scale;
        Self { learning_rate: learning_rate * group.rate_scale, weight_decay, factor }
    }
}

impl Cpu {
    /// The L2 norm of gradients, from partial sums that are added in a fixed order.
    fn norm(&mut self, gradients: Span) -> Result<f32> {
        let [gradients] = self.memory.floats([gradients])?;
        self.norm_partials.resize(gradients.len().div_ceil(ELEMENTWISE_CHUNK), 0.0);
        let work = self.norm_partials.par_iter_mut().zip(gradients.par_chunks(ELEMENTWISE_CHUNK));
        work.for_each(|(sum, gradients)| *sum = gradients.iter().map(|&g| f64::from(g) * f64::from(g)).sum());
        Ok(self.norm_partials.iter().sum::<f64>().sqrt() as f32)
    }
}

fn update_sgd(op: Sgd, scales: &Scales, weights: &mut [f32], gradients: &[f32], momentum: &mut [f32]) {
    let &Scales { learning_rate, weight_decay, factor } = scales;
    let work = weights.par_chunks_mut(ELEMENTWISE_CHUNK).zip(gradients.par_chunks(ELEMENTWISE_CHUNK));
    if op.momentum == 0.0 {
        return work.for_each(|(weights, gradients)| {
            for (w, &gradient) in weights.iter_mut().zip(gradients) {
                *w -= learning_rate * (factor * gradient + weight_decay * *w);
            }
        });
    }
    work.zip(momentum.par_chunks_mut(ELEMENTWISE_CHUNK)).for_each(|((weights, gradients), momentum)| {
        for ((w, &gradient), b) in weights.iter_mut().zip(gradients).zip(momentum) {
            let g = factor * gradient + weight_decay * *w;
            *b = op.momentum * *b + g;
            *w -= learning_rate * if op.nesterov { g + op.momentum * *b } else { *b };
        }
    });
}

/// The coefficients of one step of Adam, in f32.
struct AdamStep {
    factor: f32,
    /// Weight decay that is added to the gradient, and the factor of the weight that is subtracted from it.
    coupled_decay: f32,
    decoupled_decay: f32,
    /// `1 − β₁`, `β₂` and `1 − β₂`.
    first_rest: f32,
    second_decay: f32,
    second_rest: f32,
    /// The learning rate with the first moment's bias correction, and the bias correction of √v.
    step_size: f32,
    root_scale: f32,
    epsilon: f32,
}

impl AdamStep {
    fn new(adam: &Adam, updates: u64, scales: &Scales) -> Self {
        let &Scales { learning_rate, weight_decay, factor } = scales;
        let ([first, second], [first_correction, root_correction]) = (adam.betas, adam.bias_corrections(updates));
        Self {
            factor,
            coupled_decay: if adam.decoupled { 0.0 } else { weight_decay },
            decoupled_decay: if adam.decoupled { learning_rate * weight_decay } else { 0.0 },
            first_rest: (1.0 - first) as f32,
            second_decay: second as f32,
            second_rest: (1.0 - second) as f32,
            step_size: learning_rate * first_correction as f32,
            root_scale: root_correction as f32,
            epsilon: adam.epsilon,
        }
    }
}

fn update_adam(
    step: &AdamStep,
    weights: &mut [f32],
    gradients: &[f32],
    momentum: &mut [f32],
    second_moment: &mut [f32],
) {
    let work = weights.par_chunks_mut(ELEMENTWISE_CHUNK).zip(gradients.par_chunks(ELEMENTWISE_CHUNK));
    let moments = momentum.par_chunks_mut(ELEMENTWISE_CHUNK).zip(second_moment.par_chunks_mut(ELEMENTWISE_CHUNK));
    work.zip(moments).for_each(|((weights, gradients), (momentum, second_moment))| {
        let moments = momentum.iter_mut().zip(second_moment);
        for ((w, &gradient), (m, v)) in weights.iter_mut().zip(gradients).zip(moments) {
            let g = step.factor * gradient + step.coupled_decay * *w;
            *m += step.first_rest * (g - *m);
            *v = step.second_decay * *v + step.second_rest * (g * g);
            let decayed = *w - step.decoupled_decay * *w;
            *w = decayed - step.step_size * *m / (v.sqrt() * step.root_scale + step.epsilon);
        }
    });
}

fn update_average((decay, rest): (f32, f32), weights: &[f32], average: &mut [f32]) {
    let average = average.par_chunks_mut(ELEMENTWISE_CHUNK);
    average.zip(weights.par_chunks(ELEMENTWISE_CHUNK)).for_each(|(average, weights)| {
        average.iter_mut().zip(weights).for_each(|(a, &w)| *a = decay * *a + rest * w);
    });
}

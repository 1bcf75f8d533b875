//! SGD on the CPU: one pass over the flat buffers.

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{RunOn, Sgd, SgdUpdate, Span};

impl RunOn<Cpu> for SgdUpdate {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let Self { op, weights, gradients, momentum, average } = *self;
        let learning_rate = *cpu.learning_rates.front().context("no learning rate was set")?;
        if cpu.learning_rates.len() > 1 {
            cpu.learning_rates.pop_front();
        }
        let factor = match op.clip_norm {
            Some(clip_norm) => Sgd::clip_factor(clip_norm, cpu.norm(gradients)?),
            None => 1.0,
        };
        let nothing = weights.first(0);
        let spans = [weights, gradients, momentum.unwrap_or(nothing), average.unwrap_or(nothing)];
        let [weights, gradients, momentum, average] = cpu.memory.update(spans)?;
        let (weights, gradients) = (&mut weights[op.frozen..], &gradients[op.frozen..]);
        update(&op, learning_rate, factor, weights, gradients, momentum.get_mut(op.frozen..).unwrap_or_default());
        let (decay, rest) = op.average_coefficients();
        let average = average.get_mut(op.frozen..).unwrap_or_default().par_chunks_mut(ELEMENTWISE_CHUNK);
        average.zip(weights.par_chunks(ELEMENTWISE_CHUNK)).for_each(|(average, weights)| {
            average.iter_mut().zip(weights).for_each(|(a, &w)| *a = decay * *a + rest * w);
        });
        Ok(())
    }
}

impl Cpu {
    /// The L2 norm of all gradients, from partial sums that are added in a fixed order.
    fn norm(&mut self, gradients: Span) -> Result<f32> {
        let [gradients] = self.memory.floats([gradients])?;
        self.norm_partials.resize(gradients.len().div_ceil(ELEMENTWISE_CHUNK), 0.0);
        let work = self.norm_partials.par_iter_mut().zip(gradients.par_chunks(ELEMENTWISE_CHUNK));
        work.for_each(|(sum, gradients)| *sum = gradients.iter().map(|&g| f64::from(g) * f64::from(g)).sum());
        Ok(self.norm_partials.iter().sum::<f64>().sqrt() as f32)
    }
}

/// SGD update of the parameters that are not frozen; the gradients are first multiplied by `factor`.
fn update(op: &Sgd, learning_rate: f32, factor: f32, weights: &mut [f32], gradients: &[f32], momentum: &mut [f32]) {
    let work = weights.par_chunks_mut(ELEMENTWISE_CHUNK).zip(gradients.par_chunks(ELEMENTWISE_CHUNK));
    if op.momentum == 0.0 {
        return work.for_each(|(weights, gradients)| {
            for (w, &gradient) in weights.iter_mut().zip(gradients) {
                *w -= learning_rate * (factor * gradient + op.weight_decay * *w);
            }
        });
    }
    work.zip(momentum.par_chunks_mut(ELEMENTWISE_CHUNK)).for_each(|((weights, gradients), momentum)| {
        for ((w, &gradient), b) in weights.iter_mut().zip(gradients).zip(momentum) {
            let g = factor * gradient + op.weight_decay * *w;
            *b = op.momentum * *b + g;
            *w -= learning_rate * if op.nesterov { g + op.momentum * *b } else { *b };
        }
    });
}

//! SGD on the CPU: one pass over the flat buffers.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{OptimizerOps, Sgd};

impl OptimizerOps for Cpu {
    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()> {
        ensure!(!rates.is_empty(), "there is no learning rate");
        self.learning_rates.clear();
        self.learning_rates.extend(rates);
        Ok(())
    }

    fn sgd_step(&mut self, op: &Sgd) -> Result<()> {
        let learning_rate = *self.learning_rates.front().context("no learning rate was set")?;
        if self.learning_rates.len() > 1 {
            self.learning_rates.pop_front();
        }
        let [weights, gradients, momentum] = self.memory.optimizer_state()?;
        if op.momentum == 0.0 {
            let work = weights.par_chunks_mut(ELEMENTWISE_CHUNK).zip(gradients.par_chunks(ELEMENTWISE_CHUNK));
            work.for_each(|(weights, gradients)| {
                for (w, &gradient) in weights.iter_mut().zip(gradients) {
                    *w -= learning_rate * (gradient + op.weight_decay * *w);
                }
            });
            return Ok(());
        }
        let state = gradients.par_chunks(ELEMENTWISE_CHUNK).zip(momentum.par_chunks_mut(ELEMENTWISE_CHUNK));
        weights.par_chunks_mut(ELEMENTWISE_CHUNK).zip(state).for_each(|(weights, (gradients, momentum))| {
            for ((w, &gradient), b) in weights.iter_mut().zip(gradients).zip(momentum) {
                let g = gradient + op.weight_decay * *w;
                *b = op.momentum * *b + g;
                *w -= learning_rate * if op.nesterov { g + op.momentum * *b } else { *b };
            }
        });
        Ok(())
    }
}

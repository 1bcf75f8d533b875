//! SGD on the CPU: one pass over the flat buffers.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{OptimizerOps, Sgd};

impl OptimizerOps for Cpu {
    fn set_learning_rate(&mut self, learning_rate: f32) -> Result<()> {
        self.learning_rate = learning_rate;
        Ok(())
    }

    fn sgd_step(&mut self, op: &Sgd) -> Result<()> {
        let learning_rate = self.learning_rate;
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

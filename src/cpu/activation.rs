//! Activations on the CPU, where the plan could not fuse them.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{Activation, ActivationOps, Span};

impl ActivationOps for Cpu {
    fn activation_forward(&mut self, op: Activation, len: usize, input: Span, output: Span) -> Result<()> {
        let [x, y] = self.memory.floats([input.first(len), output.first(len)])?;
        y.par_chunks_mut(ELEMENTWISE_CHUNK).zip(x.par_chunks(ELEMENTWISE_CHUNK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = op.apply(x));
        });
        Ok(())
    }

    fn activation_backward(
        &mut self,
        op: Activation,
        len: usize,
        output: Span,
        d_output: Span,
        d_input: Span,
    ) -> Result<()> {
        let [y, d_y, d_x] = self.memory.floats([output.first(len), d_output.first(len), d_input.first(len)])?;
        let sources = y.par_chunks(ELEMENTWISE_CHUNK).zip(d_y.par_chunks(ELEMENTWISE_CHUNK));
        d_x.par_chunks_mut(ELEMENTWISE_CHUNK).zip(sources).for_each(|(d_x, (y, d_y))| {
            d_x.iter_mut().zip(y.iter().zip(d_y)).for_each(|(d_x, (&y, &d_y))| *d_x = op.backward(y, d_y));
        });
        Ok(())
    }
}

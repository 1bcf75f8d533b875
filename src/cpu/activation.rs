//! Activations on the CPU that the plan could not fuse.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{ActivationBackward, ActivationForward, RunOn};

impl RunOn<Cpu> for ActivationForward {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let [x, y] = cpu.memory.floats([self.input, self.output])?;
        y.par_chunks_mut(ELEMENTWISE_CHUNK).zip(x.par_chunks(ELEMENTWISE_CHUNK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = self.op.apply(x));
        });
        Ok(())
    }
}

impl RunOn<Cpu> for ActivationBackward {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let [y, d_y, d_x] = cpu.memory.floats([self.output, self.d_output, self.d_input])?;
        let sources = y.par_chunks(ELEMENTWISE_CHUNK).zip(d_y.par_chunks(ELEMENTWISE_CHUNK));
        d_x.par_chunks_mut(ELEMENTWISE_CHUNK).zip(sources).for_each(|(d_x, (y, d_y))| {
            d_x.iter_mut().zip(y.iter().zip(d_y)).for_each(|(d_x, (&y, &d_y))| *d_x = self.op.backward(y, d_y));
        });
        Ok(())
    }
}

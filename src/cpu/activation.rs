//! Activations on the CPU that the plan could not fuse.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK, Real, RunAs};
use crate::ops::{ActivationBackward, ActivationForward};

/// Evaluates an expression with the activation as a constant `$constant`, so that a loop in it has no branch.
macro_rules! with_constant {
    ($activation:expr, $constant:ident => $body:expr) => {
        match $activation {
            Activation::Identity => {
                let $constant = Activation::Identity;
                $body
            }
            Activation::Relu => {
                let $constant = Activation::Relu;
                $body
            }
            Activation::LeakyRelu { slope } => {
                let $constant = Activation::LeakyRelu { slope };
                $body
            }
            Activation::Tanh => {
                let $constant = Activation::Tanh;
                $body
            }
        }
    };
}
pub(super) use with_constant;

impl RunAs for ActivationForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let [x, y] = cpu.memory.values::<R, _>([self.input, self.output])?;
        y.par_chunks_mut(ELEMENTWISE_CHUNK).zip(x.par_chunks(ELEMENTWISE_CHUNK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = R::new(self.op.apply(x.get())));
        });
        Ok(())
    }
}

impl RunAs for ActivationBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let [y, d_y, d_x] = cpu.memory.values::<R, _>([self.output, self.d_output, self.d_input])?;
        let sources = y.par_chunks(ELEMENTWISE_CHUNK).zip(d_y.par_chunks(ELEMENTWISE_CHUNK));
        d_x.par_chunks_mut(ELEMENTWISE_CHUNK).zip(sources).for_each(|(d_x, (y, d_y))| {
            let values = y.iter().zip(d_y);
            d_x.iter_mut().zip(values).for_each(|(d_x, (y, d_y))| *d_x = R::new(self.op.backward(y.get(), d_y.get())));
        });
        Ok(())
    }
}

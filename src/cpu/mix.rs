//! Mixes the images of a batch on the CPU.

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::{Cpu, Real, RunAs};
use crate::ops::{Mix, MixImages};

/// How the batches of the following steps are mixed.
#[derive(Default)]
pub(super) struct State {
    mixes: Vec<Mix>,
    next: usize,
    current: Option<Mix>,
}

impl State {
    pub fn set(&mut self, mixes: &[Mix]) {
        self.mixes.clear();
        self.mixes.extend_from_slice(mixes);
        self.next = 0;
    }

    /// How the current batch was mixed.
    pub fn current(&self) -> Result<Mix> {
        self.current.context("the batch was not mixed")
    }

    /// How the next batch is mixed.
    fn advance(&mut self) -> Result<Mix> {
        self.current = self.mixes.get(self.next).or(self.mixes.last()).copied();
        self.next += 1;
        self.current()
    }
}

impl RunAs for MixImages {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { shape, input, output } = self;
        let Mix { own, other, cut } = cpu.mix.advance()?;
        let (len, [x, y]) = (shape.len(), cpu.memory.values::<R, _>([input, output])?);
        let (x, count) = (&*x, x.len() / len);
        y.par_chunks_exact_mut(len).enumerate().for_each(|(index, y)| {
            let [image, partner] = [index, Mix::partner(index, count)].map(|index| &x[index * len..][..len]);
            let Some(cut) = cut else {
                let pairs = y.iter_mut().zip(image.iter().zip(partner));
                return pairs.for_each(|(y, (image, partner))| *y = R::new(partner.get() * other + image.get() * own));
            };
            y.copy_from_slice(image);
            for row in cut.top..cut.bottom {
                let [left, right] = [cut.left, cut.right].map(|column| row as usize * shape.width + column as usize);
                let range = left * shape.channels..right * shape.channels;
                y[range.clone()].copy_from_slice(&partner[range]);
            }
        });
        Ok(())
    }
}

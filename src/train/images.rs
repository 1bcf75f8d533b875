//! The images of the first training step, as the network receives them.

use anyhow::{Result, ensure};

use super::{Position, Trainer, sampler, settings};
use crate::ops::{Backend, Mix};
use crate::plan::Sequence;

/// The first batch of a run.
#[derive(Clone, Debug)]
pub struct FirstBatch {
    /// The images with all transforms, normalised and mixed: `[batch][height][width][channels]`.
    pub values: Vec<f32>,
    /// Which training image each of them was.
    pub indices: Vec<u32>,
    /// How they were mixed.
    pub mix: Option<Mix>,
}

impl<B: Backend> Trainer<B> {
    /// The images of the first step, or of its first batch if it accumulates several. What training sets for an epoch, it
    /// sets again, so this changes no result.
    ///
    /// # Errors
    /// The run has begun, or an image cannot be read.
    pub fn first_batch(&mut self) -> Result<FirstBatch> {
        ensure!(self.position == Position::default(), "the first batch of a run is known before its first step only");
        self.begin_epoch()?;
        let (settings, batch) = (settings(&self.hyper, self.stored, 0, None), self.plan.max_batch);
        let mut program = self.backend.compile(self.plan.steps(&Sequence::TrainImages(settings), batch))?;
        self.backend.run(&mut program)?;
        let values = self.backend.read(self.plan.span(self.plan.input, batch))?;
        let mut indices = sampler::epoch_order(self.train_count, self.hyper.seed, 0, self.hyper.shuffle);
        indices.truncate(batch);
        let mix = self.hyper.mixing.draw(self.network.input(), self.hyper.seed, 0, 0);
        Ok(FirstBatch { values, indices, mix })
    }
}

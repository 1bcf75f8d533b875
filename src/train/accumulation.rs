//! Gradient accumulation: the micro-batches of optimiser steps.

use anyhow::Result;

use super::{Trainer, settings};
use crate::ops::{Backend, MicroBatch, StepLoss};
use crate::plan::{Accumulation, Sequence};

/// The batch sizes of a step's micro-batches, in order, for a step of `images` images. Several are accumulated.
pub(super) fn micro_batches(
    images: usize,
    max_batch: usize,
) -> impl Iterator<Item = (usize, Option<Accumulation>)> + Clone {
    let last = images.div_ceil(max_batch).saturating_sub(1);
    (0..=last).map(move |index| {
        let batch = max_batch.min(images - index * max_batch);
        let micro_batch = match index {
            0 => MicroBatch::First,
            index if index < last => MicroBatch::Middle,
            _ => MicroBatch::Last,
        };
        let weight = (batch as f64 / images as f64) as f32;
        (batch, (last > 0).then_some(Accumulation { micro_batch, weight }))
    })
}

impl<B: Backend> Trainer<B> {
    /// Images of an optimiser step; the last of an epoch may have fewer.
    pub(super) fn images_per_step(&self) -> usize {
        self.plan.max_batch.saturating_mul(self.hyper.accumulated())
    }

    /// The number of images of a step, counted from the beginning of its epoch.
    fn images_of(&self, step_in_epoch: u64) -> usize {
        let done = (step_in_epoch as usize).saturating_mul(self.images_per_step());
        self.images_per_step().min(self.train_count.saturating_sub(done))
    }

    /// The training steps that occur: in terms of settings and batch sizes, those of the first and the last step of an
    /// epoch.
    pub(super) fn training_sequences(&self) -> Vec<(Sequence, usize)> {
        let last = self.steps_per_epoch() - 1;
        let later = [(1, 0), (1, last)].into_iter();
        let sequences = later.chain([(0, 0)]).flat_map(|(step, step_in_epoch)| self.micro_steps(step, step_in_epoch));
        sequences.collect()
    }

    /// The sequences of an optimiser step with their batch sizes: one, or one per micro-batch.
    pub(super) fn micro_steps(
        &self,
        step: u64,
        step_in_epoch: u64,
    ) -> impl Iterator<Item = (Sequence, usize)> + use<B> {
        let (hyper, stored) = (self.hyper, self.stored);
        micro_batches(self.images_of(step_in_epoch), self.plan.max_batch).map(move |(batch, accumulation)| {
            (Sequence::TrainStep(settings(&hyper, stored, step, accumulation)), batch)
        })
    }

    /// Batches of an epoch, each of which a program runs on.
    pub(super) fn batches_per_epoch(&self) -> u64 {
        self.train_count.div_ceil(self.plan.max_batch) as u64
    }

    /// Batches done in the current epoch.
    pub(super) fn batches_in_epoch(&self) -> u64 {
        let steps = self.position.step_in_epoch;
        steps.saturating_mul(self.hyper.accumulated() as u64).min(self.batches_per_epoch())
    }

    /// Batches done in total.
    pub(super) fn batches_done(&self) -> u64 {
        u64::from(self.position.epoch) * self.batches_per_epoch() + self.batches_in_epoch()
    }

    /// The losses of all steps of the current epoch from `first_step` on, if step losses are logged.
    pub(super) fn take_step_losses(&mut self, first_step: u64) -> Result<Vec<StepLoss>> {
        let losses = self.backend.take_step_losses()?;
        if self.hyper.accumulated() == 1 {
            return Ok(losses);
        }
        let epoch_begin = self.position.total_steps - self.position.step_in_epoch;
        let (mut means, mut rest) = (Vec::new(), &losses[..]);
        for step in first_step - epoch_begin.min(first_step).. {
            let images = self.images_of(step);
            let parts = micro_batches(images, self.plan.max_batch);
            let Some((these, others)) = rest.split_at_checked(parts.clone().count()) else { break };
            if images == 0 || these.is_empty() {
                break;
            }
            let mean = |value: fn(&StepLoss) -> f32| {
                let sum: f64 =
                    parts.clone().zip(these).map(|((batch, _), it)| batch as f64 * f64::from(value(it))).sum();
                (sum / images as f64) as f32
            };
            means.push(StepLoss { loss: mean(|it| it.loss), accuracy: mean(|it| it.accuracy) });
            rest = others;
        }
        Ok(means)
    }
}

#[cfg(test)]
mod tests {
    use super::micro_batches;
    use crate::ops::MicroBatch::{First, Last, Middle};

    #[test]
    fn micro_batches_cover_the_images_of_a_step() {
        let all = |images, max_batch| {
            let parts = micro_batches(images, max_batch);
            parts.map(|(batch, it)| (batch, it.map(|it| (it.micro_batch, it.weight)))).collect::<Vec<_>>()
        };
        assert_eq!(all(8, 8), [(8, None)]);
        assert_eq!(all(5, 8), [(5, None)]);
        assert_eq!(all(16, 8), [(8, Some((First, 0.5))), (8, Some((Last, 0.5)))]);
        let quarter = |part| (2, Some((part, 0.4)));
        assert_eq!(all(5, 2), [quarter(First), quarter(Middle), (1, Some((Last, 0.2)))]);
    }
}

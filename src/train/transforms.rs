//! Random transforms of training images: what a step does, and what is drawn for an epoch.

use anyhow::{Result, ensure};

use super::{Hyperparameters, Trainer};
use crate::data::Dataset;
use crate::ops::{Backend, Stage, Transforms};
use crate::shape::Shape;

/// How training images of the shape `stored` are transformed.
pub(super) fn stage_of(hyper: &Hyperparameters, stored: Shape) -> Option<Stage> {
    hyper.transforms.stage(stored, hyper.augmentation.padding_mode)
}

/// The shape of the training images before they are transformed.
///
/// # Errors
/// It is not that of the network, and no crop of them is resized; or they cannot be transformed.
pub(super) fn stored_shape(dataset: &Dataset, hyper: &Hyperparameters) -> Result<Shape> {
    let stored = dataset.train.shape.unwrap_or(dataset.shape);
    let stage = stage_of(hyper, stored);
    ensure!(
        stored == dataset.shape || stage.is_some_and(|stage| stage.resizes),
        "training images of {stored} do not fit a network for {}",
        dataset.shape
    );
    let is_picture = [1, 3].contains(&stored.channels);
    ensure!(
        is_picture || !stage.is_some_and(|stage| stage.is_staged()),
        "only images of 1 or 3 channels are transformed"
    );
    Ok(stored)
}

impl<B: Backend> Trainer<B> {
    /// Draws the transforms of an epoch, whose images have this order, if there are any.
    pub(super) fn set_draws(&mut self, epoch: u32, order: &[u32]) -> Result<()> {
        let Hyperparameters { augmentation, transforms, seed, .. } = self.hyper;
        if transforms == Transforms::default() {
            return Ok(());
        }
        let shapes = [self.stored, self.network.input()];
        let crop = |at: usize| augmentation.draw(shapes[1], seed, epoch, at as u64, order[at]);
        self.backend.set_draws(transforms.draw(shapes, seed, epoch, order.len(), crop))
    }
}

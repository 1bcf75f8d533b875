//! The data sets and what outlives a step, as the backend's user sees them.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::lower::swap_average;
use super::program::Buffer;
use super::{Cuda, bind};
use crate::images::ImageSource;
use crate::ops::{DataSets, LossScale, Metrics, Normalise, StepLoss, Subset, TrainingState};

impl DataSets for Cuda {
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()> {
        self.sets.load(&mut self.memory, subset, op, images, labels)
    }

    fn stream_subset(
        &mut self,
        subset: Subset,
        op: &Normalise,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
    ) -> Result<()> {
        self.sets.stream(&mut self.memory, subset, op, source, labels, max_batch)
    }

    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        self.sets.set_order(&mut self.memory, subset, order, position)
    }

    fn set_augmentation_epoch(&mut self, seed: u64, epoch: u32) -> Result<()> {
        self.state.set_augmentation_epoch(seed, epoch)
    }

    fn set_labels(&mut self, labels: &[u32]) -> Result<()> {
        self.state.set_labels(&self.memory, labels)
    }
}

impl TrainingState for Cuda {
    fn set_metrics(&mut self, metrics: Metrics) -> Result<()> {
        self.state.set_metrics(metrics)
    }

    fn read_metrics(&mut self) -> Result<Metrics> {
        self.state.read_metrics()
    }

    fn peek_metrics(&mut self) -> Option<Metrics> {
        self.state.peek_metrics()
    }

    fn log_steps(&mut self, capacity: usize) -> Result<()> {
        self.state.log_steps(&mut self.memory, capacity)
    }

    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>> {
        self.state.take_step_losses(&self.memory)
    }

    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()> {
        self.state.set_learning_rates(&mut self.memory, rates)
    }

    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()> {
        self.state.set_dropout_step(seed, step)
    }

    fn swap_average(&mut self) -> Result<()> {
        bind(&self.context)?;
        let [weights, average] = [Buffer::Parameters, Buffer::Average].map(|buffer| self.memory.get(buffer));
        let (bytes, average) = (weights?.len(), average?.len());
        ensure!(bytes == average, "there is no average of the parameters");
        self.runner.launch(&self.memory, &swap_average(bytes / 4, self.options.precision)?)
    }

    fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        self.state.loss_scale()
    }

    fn set_loss_scale(&mut self, loss_scale: LossScale) -> Result<()> {
        self.state.set_loss_scale(loss_scale)
    }
}

//! The data sets on the device: all of their images, or those that were just uploaded.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::Cuda;
use super::memory::{Feed, SLOTS, bytes_of_f32, bytes_of_u32};
use super::program::Buffer;
use crate::images::ImageSource;
use crate::ops::{Backend, DataSets, Normalise, Subset};
use crate::shape::Shape;

/// What the host keeps of a set whose images, labels, order, means and deviations are in the device's memory; where in the
/// order the next batch begins too, because a captured step reads it there.
pub(super) struct Set {
    feed: Option<Feed>,
    shape: Shape,
    count: usize,
    /// Length of the order, and the host's copy of the position.
    order_len: usize,
    next: usize,
}

impl DataSets for Cuda {
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()> {
        let count = labels.len();
        ensure!(images.len() == count * op.shape.len(), "{} bytes for {count} images", images.len());
        self.remove_set(subset);
        let [of_images, of_labels, ..] = Buffer::of_set(subset);
        self.memory.allocate_with(of_images, &images).with_context(|| {
            format!("the {} MB of the data set's images do not fit the device", images.len() / 1_000_000)
        })?;
        self.memory.allocate_with(of_labels, &bytes_of_u32(&labels))?;
        self.put_set(subset, op, count, None)
    }

    fn stream_subset(
        &mut self,
        subset: Subset,
        op: &Normalise,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
    ) -> Result<()> {
        let (count, sample_len) = (labels.len(), op.shape.len());
        self.remove_set(subset);
        let [of_images, of_labels, ..] = Buffer::of_set(subset);
        self.memory.allocate(of_images, SLOTS * max_batch * sample_len)?;
        self.memory.allocate(of_labels, SLOTS * max_batch * 4)?;
        let feed = Feed::new(&self.runner.stream, source, labels, max_batch, sample_len)?;
        self.put_set(subset, op, count, Some(feed))
    }

    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        // The steps of the last order read what is replaced here, and the slots that are filled from the first again.
        self.synchronize()?;
        let set = self.sets[subset as usize].as_mut().context("no data set was loaded")?;
        let [_, _, of_order, of_position, ..] = Buffer::of_set(subset);
        ensure!(order.iter().all(|&index| (index as usize) < set.count), "the order names an image past the last");
        if 4 * order.len() > self.memory.get(of_order)?.len() {
            self.memory.allocate_pinned(of_order, 4 * order.len())?;
        }
        self.memory.send(of_position, &(position as u64).to_le_bytes())?;
        let places = match &mut set.feed {
            Some(feed) => &feed.begin(order, position)?,
            None => order,
        };
        self.memory.send(of_order, &bytes_of_u32(places))?;
        (set.order_len, set.next) = (order.len(), position);
        Ok(())
    }

    fn set_augmentation_epoch(&mut self, seed: u64, epoch: u32) -> Result<()> {
        self.memory.send(Buffer::AugmentationEpoch, &[seed, epoch.into()].map(u64::to_le_bytes).concat())
    }

    fn set_labels(&mut self, labels: &[u32]) -> Result<()> {
        self.memory.get(Buffer::Labels)?.upload(0, &bytes_of_u32(labels))
    }
}

impl Cuda {
    /// Before the buffers that it writes are freed, a feed must have ended.
    fn remove_set(&mut self, subset: Subset) {
        self.sets[subset as usize] = None;
    }

    /// Completes a set whose images and labels, or the room for them, are there.
    fn put_set(&mut self, subset: Subset, op: &Normalise, count: usize, feed: Option<Feed>) -> Result<()> {
        let channels = op.shape.channels;
        ensure!(op.mean.len() == channels && op.std.len() == channels, "one mean and std a channel");
        let [_, _, order, position, mean, std] = Buffer::of_set(subset);
        self.memory.allocate_pinned(order, 4 * count)?;
        self.memory.allocate_pinned(position, 8)?;
        self.memory.allocate_with(mean, &bytes_of_f32(&op.mean))?;
        self.memory.allocate_with(std, &bytes_of_f32(&op.std))?;
        self.sets[subset as usize] = Some(Set { feed, shape: op.shape, count, order_len: 0, next: 0 });
        // A feed writes the buffers on a stream of its own, where they must be there first.
        self.synchronize()
    }

    /// Takes the next batch of a set: notes that it is taken, and uploads it where the set is streamed.
    ///
    /// # Errors
    /// Where the order has not that many left: the device would read past its end without a word.
    pub(super) fn take_batch(&mut self, subset: Subset, batch: usize, shape: Shape) -> Result<()> {
        let set = self.sets[subset as usize].as_mut().context("no data set was loaded")?;
        ensure!(set.shape == shape, "the data set has images of {}, and the step gathers {shape}", set.shape);
        ensure!(set.next + batch <= set.order_len, "no {batch} images are left in this epoch");
        set.next += batch;
        let Some(feed) = &mut set.feed else { return Ok(()) };
        let [images, labels, ..] = Buffer::of_set(subset);
        feed.upload(&self.runner.stream, (self.memory.get(images)?, self.memory.get(labels)?), batch)
    }
}

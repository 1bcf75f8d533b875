//! The data sets on the device: all of their images, or those that were just uploaded.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::feed::{Feed, SLOTS};
use super::pinned::Pinned;
use super::{Allocation, Memory, bytes_of_u32};
use crate::cuda::driver::error;
use crate::cuda::program::Buffer;
use crate::images::ImageSource;
use crate::ops::{Normalise, Subset};
use crate::shape::Shape;

/// Both sets.
#[derive(Default)]
pub(in crate::cuda) struct Sets {
    train: Option<Set>,
    test: Option<Set>,
}

/// What the host keeps of a set whose images, labels, means and deviations are in the device's memory.
struct Set {
    feed: Option<Feed>,
    order: Pinned,
    /// Where in the order the next batch begins: on the device, because a captured step reads it there.
    position: Pinned,
    shape: Shape,
    count: usize,
    /// Length of the order, and the host's copy of the position.
    order_len: usize,
    next: usize,
}

impl Sets {
    fn set(&mut self, subset: Subset) -> Result<&mut Set> {
        let set = match subset {
            Subset::Train => &mut self.train,
            Subset::Test => &mut self.test,
        };
        set.as_mut().context("no data set was loaded")
    }

    /// Makes a set resident.
    pub fn load(
        &mut self,
        memory: &mut Memory,
        subset: Subset,
        op: &Normalise,
        images: Vec<u8>,
        labels: Vec<u32>,
    ) -> Result<()> {
        let (stream, count) = (Arc::clone(&memory.stream), labels.len());
        ensure!(images.len() == count * op.shape.len(), "{} bytes for {count} images", images.len());
        let images = Allocation::with(&stream, &images).with_context(|| {
            format!("the {} MB of the data set's images do not fit the device", images.len() / 1_000_000)
        })?;
        let labels = Allocation::with(&stream, &bytes_of_u32(&labels))?;
        self.put(memory, subset, op, count, (images, labels), None)
    }

    /// Uses a set that stays where it is.
    pub fn stream(
        &mut self,
        memory: &mut Memory,
        subset: Subset,
        op: &Normalise,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
    ) -> Result<()> {
        let (stream, count, sample_len) = (Arc::clone(&memory.stream), labels.len(), op.shape.len());
        let ring = |bytes: usize| Allocation::new(&stream, SLOTS * max_batch * bytes).map_err(error::driver);
        let buffers = (ring(sample_len)?, ring(4)?);
        let feed = Feed::new(&stream, source, labels, max_batch, sample_len)?;
        self.put(memory, subset, op, count, buffers, Some(feed))
    }

    fn put(
        &mut self,
        memory: &mut Memory,
        subset: Subset,
        op: &Normalise,
        count: usize,
        (images, labels): (Allocation, Allocation),
        feed: Option<Feed>,
    ) -> Result<()> {
        let channels = op.shape.channels;
        ensure!(op.mean.len() == channels && op.std.len() == channels, "one mean and std a channel");
        let stream = Arc::clone(&memory.stream);
        let [at_images, at_labels, at_order, at_position, at_mean, at_std] = Buffer::of_set(subset);
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (order, position) = (Pinned::new(&stream, 4 * count)?, Pinned::new(&stream, 8)?);
        let (mean, std) = (Allocation::with(&stream, &floats(&op.mean))?, Allocation::with(&stream, &floats(&op.std))?);
        // Before the buffers that it writes are freed, a feed must have ended.
        let set = match subset {
            Subset::Train => &mut self.train,
            Subset::Test => &mut self.test,
        };
        *set = None;
        for (buffer, allocation) in [(at_images, images), (at_labels, labels), (at_mean, mean), (at_std, std)] {
            memory.put(buffer, allocation);
        }
        memory.name(at_order, &order.device);
        memory.name(at_position, &position.device);
        *set = Some(Set { feed, order, position, shape: op.shape, count, order_len: 0, next: 0 });
        // A feed writes the buffers on a stream of its own, where they must be there first.
        stream.synchronize().map_err(error::driver)
    }

    pub fn set_order(&mut self, memory: &mut Memory, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        let stream = Arc::clone(&memory.stream);
        // The steps of the last order read what is replaced here, and the slots that are filled from the first again.
        stream.synchronize().map_err(error::driver)?;
        let [_, _, at_order, ..] = Buffer::of_set(subset);
        let set = self.set(subset)?;
        ensure!(order.iter().all(|&index| (index as usize) < set.count), "the order names an image past the last");
        if 4 * order.len() > set.order.device.len() {
            set.order = Pinned::new(&stream, 4 * order.len())?;
            memory.name(at_order, &set.order.device);
        }
        set.position.write(&stream, &(position as u64).to_le_bytes())?;
        let places = match &mut set.feed {
            Some(feed) => &feed.begin(order, position)?,
            None => order,
        };
        set.order.write(&stream, &bytes_of_u32(places))?;
        (set.order_len, set.next) = (order.len(), position);
        Ok(())
    }

    /// Takes the next batch of a set: notes that it is taken, and uploads it where the set is streamed.
    ///
    /// # Errors
    /// Where the order has not that many left: the device would read past its end without a word.
    pub fn take(&mut self, memory: &Memory, subset: Subset, batch: usize, shape: Shape) -> Result<()> {
        let set = self.set(subset)?;
        ensure!(set.shape == shape, "the data set has images of {}, and the step gathers {shape}", set.shape);
        ensure!(set.next + batch <= set.order_len, "no {batch} images are left in this epoch");
        set.next += batch;
        let Some(feed) = &mut set.feed else { return Ok(()) };
        let [images, labels, ..] = Buffer::of_set(subset);
        feed.upload(&memory.stream, (memory.get(images)?, memory.get(labels)?), batch)
    }
}

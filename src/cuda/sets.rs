//! The data sets on the device: resident as a whole, or streamed in batches.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::Cuda;
use super::memory::{Allocation, Feed, SLOTS, bytes_of_f32, bytes_of_u32};
use super::program::Buffer;
use super::run::Taken;
use crate::images::ImageSource;
use crate::ops::{Backend, DataSets, Draws, Normalise, PictureDraw, Subset};
use crate::shape::Shape;

/// The host's state of a data set. Images, labels, order, means and standard deviations are in device memory, and so is
/// the position of the next batch, which a captured step reads there.
pub(super) struct Set {
    feed: Option<Feed>,
    shape: Shape,
    count: usize,
    order_len: usize,
    /// Position of the next batch in the order; a copy of the device's.
    next: usize,
    /// Whether the current batch was taken, and the next gather reads it again.
    is_taken: bool,
}

/// The buffers that have an entry for every position of the order.
fn order_buffers(subset: Subset) -> &'static [Buffer] {
    match subset {
        Subset::Train => &[Buffer::TrainOrder, Buffer::TrainIndices],
        Subset::Test => &[Buffer::TestOrder],
    }
}

impl DataSets for Cuda {
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()> {
        let count = labels.len();
        ensure!(images.len() == count * op.shape.len(), "{} bytes for {count} images", images.len());
        self.remove_set(subset);
        let [image_buffer, label_buffer, ..] = Buffer::of_set(subset);
        self.memory.allocate_with(image_buffer, &images).with_context(|| {
            format!("the data set's images ({} MB) do not fit in the device's memory", images.len() / 1_000_000)
        })?;
        self.memory.allocate_with(label_buffer, &bytes_of_u32(&labels))?;
        self.insert_set(subset, op, count, None)
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
        let [image_buffer, label_buffer, ..] = Buffer::of_set(subset);
        self.memory.allocate(image_buffer, SLOTS * max_batch * sample_len)?;
        self.memory.allocate(label_buffer, SLOTS * max_batch * 4)?;
        let feed = Feed::new(&self.runner.stream, source, labels, max_batch, sample_len)?;
        self.insert_set(subset, op, count, Some(feed))
    }

    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        // Steps of the previous order may still read the buffers that are replaced here, and the slots, which are
        // refilled.
        self.synchronize()?;
        let set = self.sets[subset as usize].as_mut().context("no data set was loaded")?;
        let [_, _, order_buffer, position_buffer, ..] = Buffer::of_set(subset);
        ensure!(order.iter().all(|&index| (index as usize) < set.count), "the order has an index past the last image");
        for &buffer in order_buffers(subset) {
            if 4 * order.len() > self.memory.get(buffer)?.len() {
                self.memory.allocate_pinned(buffer, 4 * order.len())?;
            }
        }
        self.memory.send(position_buffer, &(position as u64).to_le_bytes())?;
        let places = match &mut set.feed {
            Some(feed) => &feed.begin(order, position)?,
            None => order,
        };
        self.memory.send(order_buffer, &bytes_of_u32(places))?;
        if subset == Subset::Train {
            self.memory.send(Buffer::TrainIndices, &bytes_of_u32(order))?;
        }
        (set.order_len, set.next, set.is_taken) = (order.len(), position, false);
        Ok(())
    }

    fn set_augmentation_epoch(&mut self, seed: u64, epoch: u32) -> Result<()> {
        self.memory.send(Buffer::AugmentationEpoch, &[seed, epoch.into()].map(u64::to_le_bytes).concat())
    }

    fn set_draws(&mut self, draws: Draws) -> Result<()> {
        let bytes = bytes_of_u32(&words_of(&draws));
        if self.memory.get(Buffer::PictureDraws).map_or(0, Allocation::len) < bytes.len() {
            self.memory.allocate(Buffer::PictureDraws, bytes.len())?;
        }
        self.memory.get(Buffer::PictureDraws)?.upload(0, &bytes)
    }

    fn set_labels(&mut self, labels: &[u32]) -> Result<()> {
        self.memory.get(Buffer::Labels)?.upload(0, &bytes_of_u32(labels))
    }
}

/// Words before the first picture's in [`words_of`].
const MATRIX_WORDS: usize = 64;

/// What is drawn for an epoch, as `kernels/augment.cu` reads it: the affine maps, then for each picture what is drawn for it
/// and its operations.
fn words_of(draws: &Draws) -> Vec<u32> {
    let mut words: Vec<u32> = draws.matrices.iter().flatten().map(|&number| number as u32).collect();
    words.resize(MATRIX_WORDS, 0);
    for (position, drawn) in draws.pictures.iter().enumerate() {
        let PictureDraw { top, left, height, width, mirrored, erased: [rows, columns] } = drawn;
        words.extend([*top as u32, *left as u32, *height as u32, *width as u32, u32::from(*mirrored)]);
        words.extend([rows.start, columns.start, rows.len(), columns.len()].map(|number| number as u32));
        words.extend(draws.ops_of(position).iter().flat_map(|op| op.words()));
    }
    words
}

impl Cuda {
    /// Drops the set, which ends its feed: the buffers that a feed writes must not be freed before.
    fn remove_set(&mut self, subset: Subset) {
        self.sets[subset as usize] = None;
    }

    /// Completes a set after its images and labels, or the slots for them, have been allocated.
    fn insert_set(&mut self, subset: Subset, op: &Normalise, count: usize, feed: Option<Feed>) -> Result<()> {
        let channels = op.shape.channels;
        ensure!(op.mean.len() == channels && op.std.len() == channels, "expected one mean and one std per channel");
        let [_, _, _, position, mean, std] = Buffer::of_set(subset);
        for &buffer in order_buffers(subset) {
            self.memory.allocate_pinned(buffer, 4 * count)?;
        }
        self.memory.allocate_pinned(position, 8)?;
        self.memory.allocate_with(mean, &bytes_of_f32(&op.mean))?;
        self.memory.allocate_with(std, &bytes_of_f32(&op.std))?;
        self.sets[subset as usize] = Some(Set { feed, shape: op.shape, count, order_len: 0, next: 0, is_taken: false });
        // A feed writes the buffers on its own stream, so their allocation must have finished.
        self.synchronize()
    }

    /// Advances a set by one batch, and uploads the batch if the set is streamed, unless an earlier gather has done so for
    /// another view of the same images.
    ///
    /// # Errors
    /// If fewer than `batch` images are left in the order: the device would read past its end without an error.
    pub(super) fn take_batch(&mut self, taken: &Taken) -> Result<()> {
        let Taken { subset, batch, shape, repeats } = *taken;
        let set = self.sets[subset as usize].as_mut().context("no data set was loaded")?;
        ensure!(set.shape == shape, "the data set's images are {}, but the step gathers {shape}", set.shape);
        if std::mem::replace(&mut set.is_taken, repeats) {
            return Ok(());
        }
        ensure!(set.next + batch <= set.order_len, "fewer than {batch} images are left in this epoch");
        set.next += batch;
        let Some(feed) = &mut set.feed else { return Ok(()) };
        let [images, labels, ..] = Buffer::of_set(subset);
        feed.upload(&self.runner.stream, (self.memory.get(images)?, self.memory.get(labels)?), batch)
    }
}

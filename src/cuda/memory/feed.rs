//! Streamed data sets: every batch is uploaded ahead of use, on a separate stream, into one of two slots of the buffers
//! that captured steps gather from.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaEvent, CudaStream};

use super::allocation::Allocation;
use super::bytes_of_u32;
use super::pinned::PageLocked;
use crate::cuda::driver::error;
use crate::images::{ImageSource, Prefetch};

/// Batches on the device: one in use and one being uploaded.
pub(in crate::cuda) const SLOTS: usize = 2;

/// Reads and uploads the batches of a streamed data set.
pub(in crate::cuda) struct Feed {
    source: Arc<dyn ImageSource>,
    labels: Vec<u32>,
    max_batch: usize,
    image_len: usize,
    /// The stream of the uploads, which thus do not wait for earlier steps.
    copy_stream: Arc<CudaStream>,
    slots: Vec<Slot>,
    prefetch: Option<Prefetch>,
    /// Labels of the order that have not been uploaded, reversed: the next one is last.
    pending_labels: Vec<u32>,
    /// Batches uploaded since the order began.
    batches: usize,
}

/// The page-locked memory from which one of the device's slots is filled.
struct Slot {
    images: PageLocked,
    labels: PageLocked,
    /// Recorded after the step that gathers from this slot.
    used: CudaEvent,
}

impl Feed {
    pub fn new(
        stream: &Arc<CudaStream>,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
        image_len: usize,
    ) -> Result<Self> {
        let context = stream.context();
        let slot = || -> Result<Slot> {
            Ok(Slot {
                images: PageLocked::new(context, max_batch * image_len)?,
                labels: PageLocked::new(context, 4 * max_batch)?,
                used: stream.record_event(None).map_err(error::driver)?,
            })
        };
        let slots = (0..SLOTS).map(|_| slot()).collect::<Result<Vec<_>>>()?;
        let copy_stream = context.new_stream().map_err(error::driver)?;
        let (prefetch, pending_labels) = (None, Vec::new());
        Ok(Self { source, labels, max_batch, image_len, copy_stream, slots, prefetch, pending_labels, batches: 0 })
    }

    /// Begins an order. The rest of the previous order is dropped; the device must have finished its steps. Returns the
    /// index of each of the order's images in the ring of slots.
    pub fn begin(&mut self, order: &[u32], position: usize) -> Result<Vec<u32>> {
        let left = order.get(position..).unwrap_or_default();
        self.prefetch = None;
        self.pending_labels = left.iter().rev().map(|&image| self.labels[image as usize]).collect();
        self.batches = 0;
        self.prefetch = Some(Prefetch::new(Arc::clone(&self.source), left.to_vec(), self.max_batch, self.image_len)?);
        let ring = SLOTS * self.max_batch;
        let ring_index = |at: usize| if at < position { 0 } else { ((at - position) % ring) as u32 };
        Ok((0..order.len()).map(ring_index).collect())
    }

    /// Uploads the next batch into its slot of `images` and `labels`, after the step that last used this slot. Later
    /// work on `stream` waits for the upload.
    pub fn upload(
        &mut self,
        stream: &CudaStream,
        (images, labels): (&Allocation, &Allocation),
        batch: usize,
    ) -> Result<()> {
        let slot_index = self.batches % SLOTS;
        let prefetch = self.prefetch.as_mut().context("no order was set")?;
        let bytes = prefetch.next(batch, self.image_len)?;
        ensure!(batch <= self.pending_labels.len(), "fewer than {batch} images are left in this epoch");
        let batch_labels: Vec<u32> =
            self.pending_labels.split_off(self.pending_labels.len() - batch).into_iter().rev().collect();
        if self.batches > 0 {
            // The last work queued on `stream` so far is the step that uses the previous batch.
            self.slots[(self.batches - 1) % SLOTS].used.record(stream).map_err(error::driver)?;
        }
        let slot = &mut self.slots[slot_index];
        // Both calls wait until the slot's last upload has read the memory.
        slot.images.fill(&bytes)?;
        slot.labels.fill(&bytes_of_u32(&batch_labels))?;
        prefetch.reuse(bytes);
        self.copy_stream.wait(&slot.used).map_err(error::driver)?;
        slot.images.send(&self.copy_stream, images, slot_index * self.max_batch * self.image_len)?;
        let copied = slot.labels.send(&self.copy_stream, labels, slot_index * self.max_batch * 4)?;
        stream.wait(copied).map_err(error::driver)?;
        self.batches += 1;
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // A copy may still write device memory that is freed next. An error here has occurred before and was reported
        // then.
        let _ = self.copy_stream.synchronize();
    }
}

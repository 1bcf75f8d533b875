//! Images that do not stay on the device: every batch is uploaded ahead of use, on a stream of its own, into one of two
//! slots of the buffers that recorded steps gather from.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaEvent, CudaStream};

use super::allocation::Allocation;
use super::bytes_of_u32;
use super::pinned::PageLocked;
use crate::cuda::driver::error;
use crate::images::{ImageSource, Prefetch};

/// Batches on the device: one that is in use and one that is on its way.
pub(in crate::cuda) const SLOTS: usize = 2;

/// A set that is streamed.
pub(in crate::cuda) struct Feed {
    source: Arc<dyn ImageSource>,
    labels: Vec<u32>,
    max_batch: usize,
    image_len: usize,
    /// What is uploaded goes here, and does not wait for the steps before.
    copies: Arc<CudaStream>,
    slots: Vec<Slot>,
    ahead: Option<Prefetch>,
    /// The order's labels that are still to come, the next one last.
    coming: Vec<u32>,
    /// Batches since the order began.
    batches: usize,
}

/// A batch's way to the device.
struct Slot {
    images: PageLocked,
    labels: PageLocked,
    /// The step that gathered from this slot is done.
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
        let copies = context.new_stream().map_err(error::driver)?;
        let (ahead, coming) = (None, Vec::new());
        Ok(Self { source, labels, max_batch, image_len, copies, slots, ahead, coming, batches: 0 })
    }

    /// Begins an order. What is left of the last one is dropped; the device must be done with it. Returns where in the slots
    /// each of the order's images will lie.
    pub fn begin(&mut self, order: &[u32], position: usize) -> Result<Vec<u32>> {
        let left = order.get(position..).unwrap_or_default();
        self.ahead = None;
        self.coming = left.iter().rev().map(|&number| self.labels[number as usize]).collect();
        self.batches = 0;
        self.ahead = Some(Prefetch::new(Arc::clone(&self.source), left.to_vec(), self.max_batch, self.image_len)?);
        let ring = SLOTS * self.max_batch;
        let place = |at: usize| if at < position { 0 } else { ((at - position) % ring) as u32 };
        Ok((0..order.len()).map(place).collect())
    }

    /// Uploads the next batch into its slot of `images` and `labels`, as soon as the step before the last is done with it;
    /// what `stream` is asked for from now on waits for it.
    pub fn upload(
        &mut self,
        stream: &CudaStream,
        (images, labels): (&Allocation, &Allocation),
        batch: usize,
    ) -> Result<()> {
        let number = self.batches % SLOTS;
        let ahead = self.ahead.as_mut().context("no order was set")?;
        let bytes = ahead.next(batch, self.image_len)?;
        ensure!(batch <= self.coming.len(), "no {batch} images are left in this epoch");
        let of_batch: Vec<u32> = self.coming.split_off(self.coming.len() - batch).into_iter().rev().collect();
        if self.batches > 0 {
            // All that was asked for so far is the step before this one, and what came before that.
            self.slots[(self.batches - 1) % SLOTS].used.record(stream).map_err(error::driver)?;
        }
        let slot = &mut self.slots[number];
        // Both wait until the slot's last upload has read them.
        slot.images.fill(&bytes)?;
        slot.labels.fill(&bytes_of_u32(&of_batch))?;
        ahead.reuse(bytes);
        self.copies.wait(&slot.used).map_err(error::driver)?;
        slot.images.send(&self.copies, images, number * self.max_batch * self.image_len)?;
        let copied = slot.labels.send(&self.copies, labels, number * self.max_batch * 4)?;
        stream.wait(copied).map_err(error::driver)?;
        self.batches += 1;
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // A copy may still write device memory that is freed next. What fails here has failed before, and was reported.
        let _ = self.copies.synchronize();
    }
}

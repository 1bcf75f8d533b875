//! A prefetching reader of images by index, for data sets that do not fit in the device's memory.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};

/// A source of images.
pub trait ImageSource: Send + Sync {
    /// Writes the images with the given indices to `bytes`, one after the other.
    ///
    /// # Errors
    /// If an image can no longer be read; the message names it.
    fn read(&self, indices: &[u32], bytes: &mut [u8]) -> Result<()>;
}

/// Images in host memory, for a device that cannot hold them.
pub struct HostImages {
    pub images: Vec<u8>,
    /// Bytes per image.
    pub image_len: usize,
}

impl ImageSource for HostImages {
    fn read(&self, indices: &[u32], bytes: &mut [u8]) -> Result<()> {
        for (&index, target) in indices.iter().zip(bytes.chunks_exact_mut(self.image_len)) {
            let begin = index as usize * self.image_len;
            let image = self.images.get(begin..begin + self.image_len);
            target.copy_from_slice(image.with_context(|| format!("image {index} does not exist"))?);
        }
        Ok(())
    }
}

/// Batches read ahead, in addition to the one in use.
const PREFETCH_DEPTH: usize = 2;

/// A background thread that reads an epoch's batches in order, a few batches ahead.
pub struct Prefetch {
    /// `None` once the thread is to end.
    batches: Option<Receiver<Result<Vec<u8>>>>,
    /// Buffers for the thread to reuse.
    used: Sender<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts reading `order`, `batch` images of `image_len` bytes at a time; the last batch may be smaller.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(source: Arc<dyn ImageSource>, order: Vec<u32>, batch: usize, image_len: usize) -> Result<Self> {
        ensure!(batch > 0, "a batch needs at least one image");
        let (filled, batches) = mpsc::sync_channel(PREFETCH_DEPTH - 1); // the thread holds one more
        let (used, empty) = mpsc::channel::<Vec<u8>>();
        let read = move || {
            for indices in order.chunks(batch) {
                let mut bytes = empty.try_recv().unwrap_or_default();
                bytes.resize(indices.len() * image_len, 0);
                let result = source.read(indices, &mut bytes).map(|()| bytes);
                let failed = result.is_err();
                // A failed send means that the receiver has been dropped.
                if filled.send(result).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("images".into()).spawn(read);
        let thread = thread.context("cannot start a thread to read images ahead")?;
        Ok(Self { batches: Some(batches), used, thread: Some(thread) })
    }

    /// The next batch, of `images` images; waits until it has been read.
    ///
    /// # Errors
    /// If reading the batch failed, or the order has no such batch left.
    pub fn next(&mut self, images: usize, image_len: usize) -> Result<Vec<u8>> {
        let batches = self.batches.as_ref().context("the image reader has stopped")?;
        let bytes = batches.recv().context("no images are left in this epoch")??;
        ensure!(bytes.len() == images * image_len, "read {} bytes for {images} images", bytes.len());
        Ok(bytes)
    }

    /// Returns a batch's buffer for reuse.
    pub fn reuse(&self, bytes: Vec<u8>) {
        // A thread that has read everything needs no buffer, and its receiver is closed.
        let _ = self.used.send(bytes);
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, `next` has already reported the closed channel.
            let _ = thread.join();
        }
    }
}

//! Images that are read by their numbers while earlier ones are in use, for sets that do not stay in memory.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};

/// Where images are read from.
pub trait ImageSource: Send + Sync {
    /// Writes the images of those numbers to `bytes`, one after the other.
    ///
    /// # Errors
    /// Where one cannot be read any more; the message names it.
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()>;
}

/// Images in the host's memory, for a device that cannot hold them.
pub struct Held {
    pub images: Vec<u8>,
    /// Bytes of one.
    pub image_len: usize,
}

impl ImageSource for Held {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        for (&number, target) in numbers.iter().zip(bytes.chunks_exact_mut(self.image_len)) {
            let begin = number as usize * self.image_len;
            let image = self.images.get(begin..begin + self.image_len);
            target.copy_from_slice(image.with_context(|| format!("there is no image {number}"))?);
        }
        Ok(())
    }
}

/// Batches that are read and wait, besides the one that is in use.
const AHEAD: usize = 2;

/// The batches of an order, read by a thread of its own ahead of use; it holds a few of them at the most.
pub struct Prefetch {
    /// None once it is to end.
    batches: Option<Receiver<Result<Vec<u8>>>>,
    /// Buffers that may be filled again.
    used: Sender<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Begins to read `order`, `batch` images of `image_len` bytes at a time; the last batch may be smaller.
    ///
    /// # Errors
    /// Where the system starts no thread.
    pub fn new(source: Arc<dyn ImageSource>, order: Vec<u32>, batch: usize, image_len: usize) -> Result<Self> {
        ensure!(batch > 0, "a batch needs at least one image");
        let (filled, batches) = mpsc::sync_channel(AHEAD - 1); // one more is in the thread's hands
        let (used, empty) = mpsc::channel::<Vec<u8>>();
        let read = move || {
            for numbers in order.chunks(batch) {
                let mut bytes = empty.try_recv().unwrap_or_default();
                bytes.resize(numbers.len() * image_len, 0);
                let result = source.read(numbers, &mut bytes).map(|()| bytes);
                let failed = result.is_err();
                // Nobody waits for more once the other end is gone.
                if filled.send(result).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("images".into()).spawn(read);
        let thread = thread.context("cannot start a thread to read images ahead")?;
        Ok(Self { batches: Some(batches), used, thread: Some(thread) })
    }

    /// The next batch of `images` images, waited for where it is not there yet.
    ///
    /// # Errors
    /// That of reading it, and where the order has no such batch left.
    pub fn next(&mut self, images: usize, image_len: usize) -> Result<Vec<u8>> {
        let batches = self.batches.as_ref().context("no images are read any more")?;
        let bytes = batches.recv().context("no images are left in this epoch")??;
        ensure!(bytes.len() == images * image_len, "{} bytes were read for {images} images", bytes.len());
        Ok(bytes)
    }

    /// Gives a batch's buffer back.
    pub fn reuse(&self, bytes: Vec<u8>) {
        // Where the thread has read everything, it needs none.
        let _ = self.used.send(bytes);
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has closed the channel.
            let _ = thread.join();
        }
    }
}

//! Images that do not stay in memory, and how a set that is in memory becomes one of those.

use std::fmt;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use rayon::prelude::*;

use super::records::{self, Records};
use super::{Dataset, Split};
use crate::images::{Held, ImageSource};
use crate::rng;

/// Where decoded images are while a run goes on; the results are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// In the device's memory where they fit, else in the host's, else they are read ahead of use.
    #[default]
    Auto,
    /// All in the device's memory.
    Resident,
    /// Read ahead of use.
    Stream,
}

/// Images that are read as they are needed.
#[derive(Clone)]
pub struct Streamed {
    pub source: Arc<dyn ImageSource>,
    /// [`digest_of`] all of them.
    pub digest: u64,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "images of digest {:x}", self.digest)
    }
}

/// Tells an image from others, as far as 64 bits do.
pub fn hash_of(image: &[u8]) -> u64 {
    rng::fingerprint([image])
}

/// The same of all images of a split in their order.
pub fn digest_of(hashes: &[u64]) -> u64 {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
    rng::fingerprint([bytes.as_slice()])
}

impl Split {
    /// Of all its images, which are `image_len` bytes each.
    pub(super) fn digest(&self, image_len: usize) -> u64 {
        match &self.streamed {
            Some(streamed) => streamed.digest,
            None => digest_of(&self.images.par_chunks(image_len.max(1)).map(hash_of).collect::<Vec<u64>>()),
        }
    }

    /// Takes its images out of the memory that a device would copy, to be read from `source` of them.
    fn stream(&mut self, image_len: usize, source: impl FnOnce(Vec<u8>) -> Result<Arc<dyn ImageSource>>) -> Result<()> {
        if self.streamed.is_none() {
            let digest = self.digest(image_len);
            let source = source(std::mem::take(&mut self.images))?;
            self.streamed = Some(Streamed { source, digest });
        }
        Ok(())
    }
}

impl Dataset {
    /// Bytes of all images that are in memory.
    pub fn resident_bytes(&self) -> usize {
        self.train.images.len() + self.test.images.len()
    }

    /// Leaves the images in the host's memory, from which a device is given them batch by batch.
    pub fn stream_from_memory(&mut self) -> Result<()> {
        let image_len = self.shape.len();
        for split in [&mut self.train, &mut self.test] {
            split.stream(image_len, |images| Ok(Arc::new(Held { images, image_len })))?;
        }
        Ok(())
    }

    /// Moves the images to a temporary file, from which they are read batch by batch.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn stream_from_file(&mut self) -> Result<()> {
        let shape = self.shape;
        for split in [&mut self.train, &mut self.test] {
            split.stream(shape.len(), |images| {
                let mut file = records::temporary()?;
                records::write_at(&mut file, 0, &images)?;
                let places = (0..images.len() / shape.len()).map(|image| (image as u64, false)).collect();
                Ok(Arc::new(Records { file: Arc::new(Mutex::new(file)), shape, stride: shape.len(), places }))
            })?;
        }
        Ok(())
    }
}

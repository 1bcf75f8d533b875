//! Streamed images, which a device does not keep in its memory, and the conversion of loaded images to streamed ones.

use std::fmt;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use clap::ValueEnum;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::records::{self, Records};
use super::{Dataset, Split};
use crate::images::{HostImages, ImageSource};
use crate::rng;

/// Where to keep decoded images during a run. The choice does not affect the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// In device memory if they fit, otherwise in host memory, otherwise streamed
    #[default]
    Auto,
    /// All in memory, with CUDA in device memory; an error if they do not fit
    Resident,
    /// Read ahead of use and not kept: a folder's pictures from their files, all others from a temporary file
    Stream,
}

impl Residency {
    /// Decides where to keep the images of a loaded set. `free` is the number of free bytes on a device with its own
    /// memory; half of them are reserved for the network.
    ///
    /// # Errors
    /// If the temporary file cannot be written.
    pub fn place(self, dataset: &mut Dataset, free: Option<usize>) -> Result<()> {
        let bytes = dataset.resident_bytes();
        match (self, free) {
            (Self::Stream, _) => dataset.stream_from_file(),
            (Self::Auto, Some(free)) if bytes > free / 2 => {
                let (bytes, free) = (bytes as f64 / 1e9, free as f64 / 1e9);
                info!("keeping {bytes:.1} GB of images in host memory: the device has {free:.1} GB free");
                dataset.stream_from_memory()
            }
            _ => Ok(()),
        }
    }
}

/// Images that are read when they are needed.
#[derive(Clone)]
pub struct Streamed {
    pub source: Arc<dyn ImageSource>,
    /// The digest of all images, see `digest_of`.
    pub digest: u64,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "images of digest {:x}", self.digest)
    }
}

/// A 64-bit hash of an image.
pub fn hash_of(image: &[u8]) -> u64 {
    rng::fingerprint([image])
}

/// A 64-bit hash of a split, computed from the hashes of its images in order.
pub fn digest_of(hashes: &[u64]) -> u64 {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
    rng::fingerprint([bytes.as_slice()])
}

impl Split {
    /// The digest of all images, which have `image_len` bytes each; see `digest_of`.
    pub(super) fn digest(&self, image_len: usize) -> u64 {
        match &self.streamed {
            Some(streamed) => streamed.digest,
            None => digest_of(&self.images.par_chunks(image_len.max(1)).map(hash_of).collect::<Vec<u64>>()),
        }
    }

    /// Moves the images into the source that `source` creates from them, so that a device does not copy all of them.
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
    /// The size of all images in memory, in bytes.
    pub fn resident_bytes(&self) -> usize {
        self.train.images.len() + self.test.images.len()
    }

    /// Keeps the images in host memory; a device receives them batch by batch.
    pub fn stream_from_memory(&mut self) -> Result<()> {
        let image_len = self.shape.len();
        for split in [&mut self.train, &mut self.test] {
            split.stream(image_len, |images| Ok(Arc::new(HostImages { images, image_len })))?;
        }
        Ok(())
    }

    /// Moves the images to a temporary file, from which they are read batch by batch.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn stream_from_file(&mut self) -> Result<()> {
        let shape = self.shape;
        for split in [&mut self.train, &mut self.test] {
            split.stream(shape.len(), |images| {
                let mut file = records::temporary()?;
                records::write_at(&mut file, 0, &images)?;
                let entries = (0..images.len() / shape.len()).map(|image| (image as u64, shape.channels)).collect();
                Ok(Arc::new(Records { file: Arc::new(Mutex::new(file)), shape, stride: shape.len(), entries }))
            })?;
        }
        Ok(())
    }
}

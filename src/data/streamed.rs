//! Images that do not stay in memory, and how a set that is in memory becomes one of those.

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

/// Where decoded images are during a run; the results are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// In the device's memory where they fit, else in the host's, else streamed
    #[default]
    Auto,
    /// All in memory, on a CUDA device in its own; an error where they do not fit
    Resident,
    /// Read ahead of use and not kept: pictures of a folder from their files, all others from a temporary file
    Stream,
}

impl Residency {
    /// Decides where the images of a set go that is in memory, with `free` bytes free on a device that has memory of its own.
    /// Half of them are left to the network.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn place(self, dataset: &mut Dataset, free: Option<usize>) -> Result<()> {
        let bytes = dataset.resident_bytes();
        match (self, free) {
            (Self::Stream, _) => dataset.stream_from_file(),
            (Self::Auto, Some(free)) if bytes > free / 2 => {
                let (bytes, free) = (bytes as f64 / 1e9, free as f64 / 1e9);
                info!("{bytes:.1} GB of images stay in the host's memory: {free:.1} GB are free on the device");
                dataset.stream_from_memory()
            }
            _ => Ok(()),
        }
    }
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
            split.stream(image_len, |images| Ok(Arc::new(HostImages { images, image_len })))?;
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

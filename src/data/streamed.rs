//! Streamed images, which a device does not keep in its memory, and the conversion of loaded images to streamed ones.

use std::fmt;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
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
    /// The hash of every image, see `hash_of`.
    pub hashes: Arc<Vec<u64>>,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "images of digest {:x}", digest_of(&self.hashes))
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
        digest_of(&self.hashes(image_len))
    }

    fn hashes(&self, image_len: usize) -> Arc<Vec<u64>> {
        match &self.streamed {
            Some(streamed) => Arc::clone(&streamed.hashes),
            None => Arc::new(self.images.par_chunks(image_len.max(1)).map(hash_of).collect()),
        }
    }

    /// `count` images, or all if there are fewer, each of `image_len` bytes. They are evenly spread over the split, which may
    /// be sorted by class.
    ///
    /// # Errors
    /// If an image can no longer be read.
    pub fn sample(&self, count: usize, image_len: usize) -> Result<Vec<u8>> {
        let (all, count) = (self.count(), count.min(self.count()));
        let numbers: Vec<u32> = (0..count).map(|index| (index * all / count) as u32).collect();
        self.read(&numbers, image_len)
    }

    /// The images with these numbers, each of `image_len` bytes.
    ///
    /// # Errors
    /// If an image can no longer be read.
    pub fn read(&self, numbers: &[u32], image_len: usize) -> Result<Vec<u8>> {
        let Some(streamed) = &self.streamed else { return Ok(self.select(numbers, image_len).images) };
        let mut images = vec![0; numbers.len() * image_len];
        streamed.source.read(numbers, &mut images)?;
        Ok(images)
    }

    /// The images with these numbers, in their order.
    pub(super) fn select(&self, numbers: &[u32], image_len: usize) -> Self {
        let of = |number: &u32| *number as usize;
        let labels = numbers.iter().map(|number| self.labels[of(number)]).collect();
        let Some(Streamed { source, hashes }) = &self.streamed else {
            let image = |number| &self.images[of(number) * image_len..][..image_len];
            let images = numbers.iter().flat_map(image).copied().collect();
            return Self { images, labels, ..self.empty() };
        };
        let hashes = Arc::new(numbers.iter().map(|number| hashes[of(number)]).collect());
        let source = Arc::new(Selected { source: Arc::clone(source), numbers: numbers.to_vec() });
        Self { labels, streamed: Some(Streamed { source, hashes }), ..self.empty() }
    }

    /// A split of the same shape without images.
    fn empty(&self) -> Self {
        Self { shape: self.shape, ..Self::default() }
    }

    /// The images of this split, then those of another.
    pub(crate) fn join(self, other: Self, image_len: usize) -> Self {
        if self.count() == 0 || other.count() == 0 {
            return if self.count() == 0 { other } else { self };
        }
        let (first, labels) = (self.count(), [&self.labels[..], &other.labels].concat());
        if self.streamed.is_none() && other.streamed.is_none() {
            return Self { labels, images: [&self.images[..], &other.images].concat(), ..self.empty() };
        }
        let empty = self.empty();
        let [a, b] = [self, other].map(|split| split.into_streamed(image_len));
        let hashes = Arc::new([&a.hashes[..], &b.hashes].concat());
        let source = Arc::new(Joined { sources: [a.source, b.source], first });
        Self { labels, streamed: Some(Streamed { source, hashes }), ..empty }
    }

    fn into_streamed(self, image_len: usize) -> Streamed {
        let hashes = self.hashes(image_len);
        let images = self.images;
        self.streamed.unwrap_or_else(|| Streamed { source: Arc::new(HostImages { images, image_len }), hashes })
    }

    /// Moves the images into the source that `source` creates from them, so that a device does not copy all of them.
    fn stream(&mut self, image_len: usize, source: impl FnOnce(Vec<u8>) -> Result<Arc<dyn ImageSource>>) -> Result<()> {
        if self.streamed.is_none() {
            let hashes = self.hashes(image_len);
            let source = source(std::mem::take(&mut self.images))?;
            self.streamed = Some(Streamed { source, hashes });
        }
        Ok(())
    }
}

/// Some of the images of another source.
struct Selected {
    source: Arc<dyn ImageSource>,
    numbers: Vec<u32>,
}

impl ImageSource for Selected {
    fn read(&self, indices: &[u32], bytes: &mut [u8]) -> Result<()> {
        let number = |&index: &u32| self.numbers.get(index as usize).copied();
        let numbers: Option<Vec<u32>> = indices.iter().map(number).collect();
        self.source.read(&numbers.context("there is no such image")?, bytes)
    }
}

/// The images of two sources, one after the other.
struct Joined {
    sources: [Arc<dyn ImageSource>; 2],
    /// The number of images in the first.
    first: usize,
}

impl ImageSource for Joined {
    fn read(&self, indices: &[u32], bytes: &mut [u8]) -> Result<()> {
        let (image_len, first) = (bytes.len() / indices.len().max(1), self.first as u32);
        let mut begin = 0;
        for run in indices.chunk_by(|a, b| (*a < first) == (*b < first)) {
            let bytes = &mut bytes[begin * image_len..][..run.len() * image_len];
            begin += run.len();
            if run[0] < first {
                self.sources[0].read(run, bytes)?;
            } else {
                let numbers: Vec<u32> = run.iter().map(|index| index - first).collect();
                self.sources[1].read(&numbers, bytes)?;
            }
        }
        Ok(())
    }
}

impl Dataset {
    fn splits(&self) -> [&Split; 3] {
        [&self.train, &self.val, &self.test]
    }

    fn splits_mut(&mut self) -> [&mut Split; 3] {
        [&mut self.train, &mut self.val, &mut self.test]
    }

    /// The size of all images in memory, in bytes.
    pub fn resident_bytes(&self) -> usize {
        self.splits().map(|split| split.images.len()).iter().sum()
    }

    /// Keeps the images in host memory; a device receives them batch by batch.
    pub fn stream_from_memory(&mut self) -> Result<()> {
        let shape = self.shape;
        for split in self.splits_mut() {
            let image_len = split.shape.unwrap_or(shape).len();
            split.stream(image_len, |images| Ok(Arc::new(HostImages { images, image_len })))?;
        }
        Ok(())
    }

    /// Moves the images to a temporary file, from which they are read batch by batch.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn stream_from_file(&mut self) -> Result<()> {
        let common = self.shape;
        for split in self.splits_mut() {
            let shape = split.shape.unwrap_or(common);
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

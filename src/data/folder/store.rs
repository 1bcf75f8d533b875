//! The pictures of a set as they are decoded, gray until the first one in colour: in memory, in a temporary file, or as metadata only.

use std::fs::File;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};

use super::layout::Labelled;
use crate::data::records::{self, Records, spread};
use crate::data::statistics::Histogram;
use crate::data::streamed::{Residency, Streamed, digest_of, hash_of};
use crate::data::{Normalisation, Split};
use crate::images::ImageSource;
use crate::shape::Shape;

/// A decoded picture.
#[derive(Debug)]
pub struct Pixels {
    /// 1 or 3.
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// `[height][width][channels]`; empty where the size is not the wanted one.
    pub values: Vec<u8>,
}

/// Where the pictures go.
enum Kept {
    /// Into memory, in their final order.
    Memory(Vec<u8>),
    /// Nowhere, to be decoded again when they are needed, or into a file. Their metadata is kept.
    Outside { file: Option<File>, metadata: Metadata },
}

/// What is known of pictures whose pixels are not in memory.
struct Metadata {
    /// Of the training pictures.
    histogram: Histogram,
    gray: Vec<bool>,
    /// Of every picture as it is, and as it is in colours.
    hashes: Vec<[u64; 2]>,
}

/// Room for every picture of the set.
pub struct Store {
    labels: Vec<u32>,
    filled: Vec<bool>,
    train_count: usize,
    /// It has no pixels before the size is known.
    shape: Shape,
    residency: Residency,
    /// Whether what is not in memory goes into a file: archives are read but once.
    spools: bool,
    kept: Kept,
}

impl Store {
    pub fn new(train: &[Labelled], test: &[Labelled], residency: Residency, spools: bool) -> Self {
        let labels: Vec<u32> = train.iter().chain(test).map(|picture| picture.label).collect();
        let (filled, kept) = (vec![false; labels.len()], Kept::Memory(Vec::new()));
        let shape = Shape::new(0, 0, 1);
        Self { labels, filled, train_count: train.len(), shape, residency, spools, kept }
    }

    /// Makes room for all pictures at that size, once it is known: in memory where they fit well, even in colours.
    ///
    /// # Errors
    /// Where memory does not suffice and has to.
    pub fn reserve(&mut self, height: usize, width: usize) -> Result<()> {
        if !self.shape.is_empty() {
            return Ok(());
        }
        self.shape = Shape::new(height, width, 1);
        let bytes = (3 * height as u64 * width as u64).saturating_mul(self.labels.len() as u64);
        let large = available_memory().is_some_and(|available| bytes > available / 4 * 3);
        let streams = self.residency == Residency::Stream || self.residency == Residency::Auto && large;
        if !streams {
            self.kept = Kept::Memory(self.room(1)?);
            return Ok(());
        }
        let how = if self.spools { "a temporary file" } else { "their files, again for every batch" };
        tracing::info!("{:.1} GB of pictures are not kept in memory, but read from {how}", bytes as f64 / 1e9);
        let count = self.labels.len();
        let metadata = Metadata { histogram: Histogram::new(3), gray: vec![true; count], hashes: vec![[0; 2]; count] };
        let file = self.spools.then(records::temporary).transpose()?;
        self.kept = Kept::Outside { file, metadata };
        Ok(())
    }

    /// Keeps a picture at its place.
    ///
    /// # Errors
    /// Where it is of another size than was reserved, or memory or disk does not suffice.
    pub fn put(&mut self, index: usize, name: &str, pixels: &Pixels) -> Result<()> {
        let Pixels { channels, height, width, values } = pixels;
        ensure!(
            (*height, *width) == (self.shape.height, self.shape.width),
            "the pictures are of different sizes: {name} is {width}×{height}, others are {}×{}; \
             give the size to bring them to with --image-size",
            self.shape.width,
            self.shape.height
        );
        self.filled[index] = true;
        let training = index < self.train_count;
        if let Kept::Outside { file, metadata } = &mut self.kept {
            self.shape.channels = self.shape.channels.max(*channels);
            if let Some(file) = file {
                records::write_at(file, (index * 3 * height * width) as u64, values)?;
            }
            metadata.add(index, *channels, values, training);
            return Ok(());
        }
        if *channels > self.shape.channels {
            self.filled[index] = false; // nothing of it is there yet
            self.colour(*channels)?;
            self.filled[index] = true;
        }
        if let Kept::Memory(images) = &mut self.kept {
            let place = &mut images[index * self.shape.len()..][..self.shape.len()];
            if *channels == self.shape.channels {
                place.copy_from_slice(values);
            } else {
                spread(values, place, self.shape.channels);
            }
        }
        Ok(())
    }

    fn room(&self, channels: usize) -> Result<Vec<u8>> {
        let Shape { height, width, .. } = self.shape;
        let (count, bytes) = (self.labels.len(), height.checked_mul(width).and_then(|n| n.checked_mul(channels)));
        let bytes = bytes.and_then(|bytes| bytes.checked_mul(count)).context("the set is too large")?;
        let mut images = Vec::new();
        // Linux promises more than it has, and kills who takes it at its word.
        let enough = available_memory().is_none_or(|available| bytes as u64 <= available);
        ensure!(
            enough && images.try_reserve_exact(bytes).is_ok(),
            "there is not enough memory for {count} pictures of {width}×{height}, {:.1} GB; try --stream or a smaller --image-size",
            bytes as f64 / 1e9
        );
        images.resize(bytes, 0);
        Ok(images)
    }

    /// Turns all that is there from gray into colours.
    fn colour(&mut self, channels: usize) -> Result<()> {
        let Kept::Memory(gray) = &mut self.kept else { return Ok(()) };
        let gray = if self.filled.contains(&true) { std::mem::take(gray) } else { Vec::new() };
        let mut images = self.room(channels)?;
        spread(&gray, &mut images, channels);
        self.kept = Kept::Memory(images);
        self.shape.channels = channels;
        Ok(())
    }

    /// The shape of all pictures, the two splits without those that are missing, and where the pictures are not in memory
    /// the training pictures' mean and deviation. `decoded` makes a source of pictures that are in no file, of their indices.
    pub fn finish(mut self, decoded: impl Fn(Vec<usize>, Shape) -> Arc<dyn ImageSource>) -> Finished {
        let shape = self.shape;
        let present: Vec<usize> = (0..self.labels.len()).filter(|&index| self.filled[index]).collect();
        let train_count = present.iter().filter(|&&index| index < self.train_count).count();
        let labels: Vec<u32> = present.iter().map(|&index| self.labels[index]).collect();
        let (train_labels, test_labels) = labels.split_at(train_count);
        let mut train = Split { labels: train_labels.to_vec(), ..Split::default() };
        let mut test = Split { labels: test_labels.to_vec(), ..Split::default() };
        let normalisation = match &mut self.kept {
            Kept::Memory(images) => {
                let len = shape.len();
                for (kept, &index) in present.iter().enumerate() {
                    images.copy_within(index * len..(index + 1) * len, kept * len);
                }
                images.truncate(present.len() * len);
                test.images = images.split_off(train_count * len);
                train.images = std::mem::take(images);
                None
            }
            Kept::Outside { file, metadata } => {
                let (first, second) = present.split_at(train_count);
                let file = file.take().map(|file| Arc::new(Mutex::new(file)));
                for (split, indices) in [(&mut train, first), (&mut test, second)] {
                    let source: Arc<dyn ImageSource> = match &file {
                        Some(file) => Arc::new(metadata.records(Arc::clone(file), indices, shape)),
                        None => decoded(indices.to_vec(), shape),
                    };
                    split.streamed = Some(Streamed { source, digest: metadata.digest(indices, shape) });
                }
                Some(metadata.histogram.normalisation(shape.channels))
            }
        };
        Finished { shape, train, test, normalisation }
    }
}

/// What [`Store::finish`] gives.
pub struct Finished {
    pub shape: Shape,
    pub train: Split,
    pub test: Split,
    pub normalisation: Option<Normalisation>,
}

impl Metadata {
    fn add(&mut self, index: usize, channels: usize, values: &[u8], training: bool) {
        self.gray[index] = channels == 1;
        if training {
            self.histogram.add(values, channels);
        }
        let own = hash_of(values);
        let mut coloured = own;
        if channels == 1 {
            let mut colours = vec![0; 3 * values.len()];
            spread(values, &mut colours, 3);
            coloured = hash_of(&colours);
        }
        self.hashes[index] = [own, coloured];
    }

    fn digest(&self, indices: &[usize], shape: Shape) -> u64 {
        let which = usize::from(shape.channels > 1);
        digest_of(&indices.iter().map(|&index| self.hashes[index][which]).collect::<Vec<u64>>())
    }

    fn records(&self, file: Arc<Mutex<File>>, indices: &[usize], shape: Shape) -> Records {
        let places = indices.iter().map(|&index| (index as u64, self.gray[index])).collect();
        Records { file, shape, stride: 3 * shape.pixels(), places }
    }
}

/// What can be allocated without swapping, where the system tells.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

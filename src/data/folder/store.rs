//! Stores decoded pictures in memory (as gray until the first one in colour), in a temporary file, or only as metadata.

use std::fs::File;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};

use super::layout::LabelledPicture;
use crate::data::records::{self, Records, convert_to};
use crate::data::statistics::Histogram;
use crate::data::streamed::{Residency, Streamed, hash_of};
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
    /// `[height][width][channels]`; empty if the picture does not have the required size.
    pub values: Vec<u8>,
}

/// Where the pictures are stored.
enum Storage {
    /// In memory, in their final order.
    Memory(Vec<u8>),
    /// In a temporary file or, without one, nowhere: they are decoded again when they are needed.
    External { file: Option<File>, metadata: Metadata },
}

/// Metadata of pictures whose pixels are not in memory.
struct Metadata {
    /// The values of the training pictures.
    histogram: Histogram,
    /// The number of channels of each picture.
    channels: Vec<usize>,
    /// The hashes of each picture with one channel and with three.
    hashes: Vec<[u64; 2]>,
}

/// Storage for all pictures of a data set.
pub struct Store {
    labels: Vec<u32>,
    /// Whether each picture was stored.
    filled: Vec<bool>,
    /// The numbers of pictures to train with, to validate with and to test with, in this order.
    counts: [usize; 3],
    /// The shape of an image; it has no pixels until the size is known.
    shape: Shape,
    /// Whether a training picture is in colour.
    train_colour: bool,
    residency: Residency,
    /// Whether the pictures come from an archive. An archive is read only once, so pictures that do not stay in memory go
    /// to a temporary file.
    archived: bool,
    storage: Storage,
}

impl Store {
    pub fn new(splits: [&[LabelledPicture]; 3], residency: Residency, archived: bool) -> Self {
        let (labels, counts): (Vec<u32>, _) =
            (splits.into_iter().flatten().map(|picture| picture.label).collect(), splits.map(<[_]>::len));
        let (filled, storage) = (vec![false; labels.len()], Storage::Memory(Vec::new()));
        let shape = Shape::new(0, 0, 1);
        Self { labels, filled, counts, shape, train_colour: false, residency, archived, storage }
    }

    /// The number of training pictures, which come first.
    pub fn train_count(&self) -> usize {
        self.counts[0]
    }

    /// Allocates space for all pictures of the given size. They go to memory if there is enough of it even for three
    /// channels. Later calls do nothing.
    ///
    /// # Errors
    /// If memory is required but does not suffice.
    pub fn reserve(&mut self, height: usize, width: usize) -> Result<()> {
        if !self.shape.is_empty() {
            return Ok(());
        }
        self.shape = Shape::new(height, width, 1);
        let bytes = (3 * height as u64 * width as u64).saturating_mul(self.labels.len() as u64);
        let too_large = available_memory().is_some_and(|available| bytes > available / 4 * 3);
        let streams = self.residency == Residency::Stream || self.residency == Residency::Auto && too_large;
        if !streams {
            self.storage = Storage::Memory(self.allocate(1)?);
            return Ok(());
        }
        let how = if self.archived { "a temporary file" } else { "their files, again for every batch" };
        tracing::info!("{:.1} GB of pictures are not kept in memory but read from {how}", bytes as f64 / 1e9);
        let count = self.labels.len();
        let metadata = Metadata { histogram: Histogram::new(3), channels: vec![1; count], hashes: vec![[0; 2]; count] };
        let file = self.archived.then(records::temporary).transpose()?;
        self.storage = Storage::External { file, metadata };
        Ok(())
    }

    /// Stores the picture `index`.
    ///
    /// # Errors
    /// If it has another size than the first picture, or memory or disk space does not suffice.
    pub fn put(&mut self, index: usize, name: &str, pixels: &Pixels) -> Result<()> {
        let Pixels { channels, height, width, values } = pixels;
        ensure!(
            (*height, *width) == (self.shape.height, self.shape.width),
            "the pictures have different sizes (height×width): {name} is {height}×{width}, others are {}×{}; \
             scale them to one size with --image-size",
            self.shape.height,
            self.shape.width
        );
        self.filled[index] = true;
        let training = index < self.train_count();
        self.train_colour |= training && *channels > 1;
        if let Storage::External { file, metadata } = &mut self.storage {
            self.shape.channels = self.shape.channels.max(*channels);
            if let Some(file) = file {
                records::write_at(file, (index * 3 * height * width) as u64, values)?;
            }
            metadata.add(index, *channels, values, training);
            return Ok(());
        }
        if *channels > self.shape.channels {
            self.filled[index] = false; // Its pixels are not stored yet.
            self.convert_to_colour(*channels)?;
            self.filled[index] = true;
        }
        if let Storage::Memory(images) = &mut self.storage {
            let target = &mut images[index * self.shape.len()..][..self.shape.len()];
            convert_to(values, *channels, target, self.shape.channels);
        }
        Ok(())
    }

    /// Zeroed memory for all images with `channels` channels.
    fn allocate(&self, channels: usize) -> Result<Vec<u8>> {
        let Shape { height, width, .. } = self.shape;
        let (count, bytes) = (self.labels.len(), height.checked_mul(width).and_then(|n| n.checked_mul(channels)));
        let bytes = bytes.and_then(|bytes| bytes.checked_mul(count)).context("the data set is too large")?;
        let mut images = Vec::new();
        // Linux overcommits memory and kills a process that uses more than exists, so the allocation alone is no check.
        let enough = available_memory().is_none_or(|available| bytes as u64 <= available);
        ensure!(
            enough && images.try_reserve_exact(bytes).is_ok(),
            "there is not enough memory for {count} pictures of {height}×{width} (height×width), {:.1} GB; try --stream or a smaller --image-size",
            bytes as f64 / 1e9
        );
        images.resize(bytes, 0);
        Ok(images)
    }

    /// Converts the stored images from gray to `channels` channels.
    fn convert_to_colour(&mut self, channels: usize) -> Result<()> {
        let Storage::Memory(gray) = &mut self.storage else { return Ok(()) };
        let gray = if self.filled.contains(&true) { std::mem::take(gray) } else { Vec::new() };
        let mut images = self.allocate(channels)?;
        convert_to(&gray, 1, &mut images, channels);
        self.storage = Storage::Memory(images);
        self.shape.channels = channels;
        Ok(())
    }

    /// Converts the stored images to gray if all training pictures are gray, whatever the others are.
    fn convert_to_gray(&mut self) {
        if self.train_colour || self.train_count() == 0 || self.shape.channels == 1 {
            return;
        }
        tracing::info!("all training pictures are gray, so others in colour are read as gray");
        if let Storage::Memory(images) = &mut self.storage {
            let mut gray = vec![0; images.len() / self.shape.channels];
            convert_to(images, self.shape.channels, &mut gray, 1);
            *images = gray;
        }
        self.shape.channels = 1;
    }

    /// Returns the splits without the pictures that were not stored. `decoded` creates a source that decodes the pictures
    /// with the given indices again; it is used if they are neither in memory nor in a temporary file.
    pub fn finish(mut self, decoded: impl Fn(Vec<usize>, Shape) -> Arc<dyn ImageSource>) -> Finished {
        self.convert_to_gray();
        let shape = self.shape;
        let present: Vec<usize> = (0..self.labels.len()).filter(|&index| self.filled[index]).collect();
        let [train, val, _] = self.counts;
        let ends = [train, train + val].map(|end| present.partition_point(|&index| index < end));
        let (of_train, others) = present.split_at(ends[0]);
        let (of_val, of_test) = others.split_at(ends[1] - ends[0]);
        let mut splits = [of_train, of_val, of_test].map(|indices| {
            let labels = indices.iter().map(|&index| self.labels[index]).collect();
            (indices, Split { labels, ..Split::default() })
        });
        let normalisation = match &mut self.storage {
            Storage::Memory(images) => {
                let len = shape.len();
                for (target, &index) in present.iter().enumerate() {
                    images.copy_within(index * len..(index + 1) * len, target * len);
                }
                images.truncate(present.len() * len);
                splits[2].1.images = images.split_off(ends[1] * len);
                splits[1].1.images = images.split_off(ends[0] * len);
                splits[0].1.images = std::mem::take(images);
                None
            }
            Storage::External { file, metadata } => {
                let file = file.take().map(|file| Arc::new(Mutex::new(file)));
                for (indices, split) in splits.iter_mut().filter(|(indices, _)| !indices.is_empty()) {
                    let source: Arc<dyn ImageSource> = match &file {
                        Some(file) => Arc::new(metadata.records(Arc::clone(file), indices, shape)),
                        None => decoded(indices.to_vec(), shape),
                    };
                    split.streamed = Some(Streamed { source, hashes: metadata.hashes(indices, shape) });
                }
                Some(metadata.histogram.normalisation(shape.channels))
            }
        };
        let splits = splits.map(|(_, split)| split);
        Finished { shape, present, bad: 0, splits, normalisation }
    }
}

/// The result of [`Store::finish`].
pub struct Finished {
    pub shape: Shape,
    /// The indices of the pictures that were stored, in the order of the splits.
    pub present: Vec<usize>,
    /// The number of corrupt pictures that were skipped.
    pub bad: usize,
    /// To train with, to validate with and to test with.
    pub splits: [Split; 3],
    /// The statistics of the training pictures; `None` if they are in memory.
    pub normalisation: Option<Normalisation>,
}

impl Metadata {
    fn add(&mut self, index: usize, channels: usize, values: &[u8], training: bool) {
        self.channels[index] = channels;
        if training {
            self.histogram.add(values, channels);
        }
        let other = 4 - channels; // 1 of 3, or 3 of 1
        let mut converted = vec![0; values.len() / channels * other];
        convert_to(values, channels, &mut converted, other);
        let hashes = [hash_of(values), hash_of(&converted)];
        self.hashes[index] = if channels == 1 { hashes } else { [hashes[1], hashes[0]] };
    }

    fn hashes(&self, indices: &[usize], shape: Shape) -> Arc<Vec<u64>> {
        let which = usize::from(shape.channels > 1);
        Arc::new(indices.iter().map(|&index| self.hashes[index][which]).collect())
    }

    fn records(&self, file: Arc<Mutex<File>>, indices: &[usize], shape: Shape) -> Records {
        let entries = indices.iter().map(|&index| (index as u64, self.channels[index])).collect();
        Records { file, shape, stride: 3 * shape.pixels(), entries }
    }
}

/// The bytes that can be allocated without swapping, or `None` if the system does not report them.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

//! The pictures of a set as they are decoded: gray until the first one in colour, in one buffer of their final order.

use anyhow::{Context, Result, ensure};

use super::layout::Labelled;
use crate::data::Split;
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

/// Room for every picture of the set.
pub struct Store {
    labels: Vec<u32>,
    filled: Vec<bool>,
    train_count: usize,
    /// It has no pixels before the size is known.
    shape: Shape,
    images: Vec<u8>,
}

impl Store {
    pub fn new(train: &[Labelled], test: &[Labelled]) -> Self {
        let labels: Vec<u32> = train.iter().chain(test).map(|picture| picture.label).collect();
        let filled = vec![false; labels.len()];
        Self { labels, filled, train_count: train.len(), shape: Shape::new(0, 0, 1), images: Vec::new() }
    }

    /// Makes room for all pictures at that size, once it is known.
    ///
    /// # Errors
    /// Where memory does not suffice.
    pub fn reserve(&mut self, height: usize, width: usize) -> Result<()> {
        if self.shape.is_empty() {
            self.shape = Shape::new(height, width, 1);
            self.images = self.room(1)?;
        }
        Ok(())
    }

    /// Keeps a picture at its place.
    ///
    /// # Errors
    /// Where it is of another size than was reserved, or memory does not suffice for colours.
    pub fn put(&mut self, index: usize, name: &str, pixels: &Pixels) -> Result<()> {
        let Pixels { channels, height, width, values } = pixels;
        ensure!(
            (*height, *width) == (self.shape.height, self.shape.width),
            "the pictures are of different sizes: {name} is {width}×{height}, others are {}×{}; \
             give the size to bring them to with --image-size",
            self.shape.width,
            self.shape.height
        );
        if *channels > self.shape.channels {
            self.colour(*channels)?;
        }
        let place = &mut self.images[index * self.shape.len()..][..self.shape.len()];
        if *channels == self.shape.channels {
            place.copy_from_slice(values);
        } else {
            spread(values, place, self.shape.channels);
        }
        self.filled[index] = true;
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
            "there is not enough memory for {count} pictures of {width}×{height}, {:.1} GB; try a smaller --image-size",
            bytes as f64 / 1e9
        );
        images.resize(bytes, 0);
        Ok(images)
    }

    /// Turns all that is there from gray into colours.
    fn colour(&mut self, channels: usize) -> Result<()> {
        if !self.filled.contains(&true) {
            self.images = Vec::new(); // nothing in it
        }
        let mut images = self.room(channels)?;
        spread(&self.images, &mut images, channels);
        self.images = images;
        self.shape.channels = channels;
        Ok(())
    }

    /// The shape of all pictures, and the two splits without those that are missing.
    pub fn finish(mut self) -> (Shape, Split, Split) {
        let len = self.shape.len();
        let mut kept = 0;
        for index in 0..self.labels.len() {
            if self.filled[index] {
                self.labels[kept] = self.labels[index];
                self.images.copy_within(index * len..(index + 1) * len, kept * len);
                kept += 1;
            }
        }
        self.labels.truncate(kept);
        self.images.truncate(kept * len);
        let train_count = self.filled[..self.train_count].iter().filter(|&&filled| filled).count();
        let test =
            Split { images: self.images.split_off(train_count * len), labels: self.labels.split_off(train_count) };
        (self.shape, Split { images: self.images, labels: self.labels }, test)
    }
}

/// What can be allocated without swapping, where the system tells.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Repeats every value for each channel.
fn spread(gray: &[u8], colours: &mut [u8], channels: usize) {
    for (pixel, &value) in colours.chunks_exact_mut(channels).zip(gray) {
        pixel.fill(value);
    }
}

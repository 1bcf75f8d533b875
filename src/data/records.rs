//! Decoded images in a temporary file, from which they are read as they are needed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::images::ImageSource;
use crate::shape::Shape;

/// A file that is gone with this process, in the system's folder for such files (`TMPDIR` names another).
pub fn temporary() -> Result<File> {
    let folder = std::env::temp_dir();
    tempfile::tempfile().with_context(|| {
        format!("cannot make a file for decoded images in {}; TMPDIR names another folder", folder.display())
    })
}

/// Writes bytes at a place of such a file.
pub fn write_at(file: &mut File, offset: u64, bytes: &[u8]) -> Result<()> {
    let written = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
    written.with_context(|| {
        let folder = std::env::temp_dir();
        format!("cannot write decoded images to {}; TMPDIR names another folder", folder.display())
    })
}

/// Images of such a file.
pub struct Records {
    pub file: Arc<Mutex<File>>,
    pub shape: Shape,
    /// Bytes from one record to the next.
    pub stride: usize,
    /// The record of each image, and whether it is gray.
    pub places: Vec<(u64, bool)>,
}

impl ImageSource for Records {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gray = vec![0; self.shape.pixels()];
        for (&number, target) in numbers.iter().zip(bytes.chunks_exact_mut(self.shape.len())) {
            let place = self.places.get(number as usize);
            let &(record, is_gray) = place.with_context(|| format!("there is no image {number}"))?;
            let spreads = is_gray && self.shape.channels > 1;
            let read = file.seek(SeekFrom::Start(record * self.stride as u64)).and_then(|_| match spreads {
                true => file.read_exact(&mut gray),
                false => file.read_exact(target),
            });
            read.with_context(|| format!("cannot read decoded image {number} back"))?;
            if spreads {
                spread(&gray, target, self.shape.channels);
            }
        }
        Ok(())
    }
}

/// Repeats every value for each channel.
pub fn spread(gray: &[u8], colours: &mut [u8], channels: usize) {
    for (pixel, &value) in colours.chunks_exact_mut(channels).zip(gray) {
        pixel.fill(value);
    }
}

//! Decoded images in a temporary file, from which they are read when they are needed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::images::ImageSource;
use crate::shape::Shape;

/// Creates a file that the system deletes when the process ends, in the system's folder for temporary files or `TMPDIR`.
pub fn temporary() -> Result<File> {
    let folder = std::env::temp_dir();
    tempfile::tempfile().with_context(|| {
        format!("cannot create a file for decoded images in {}; set TMPDIR to use another folder", folder.display())
    })
}

/// Writes bytes to such a file at an offset.
pub fn write_at(file: &mut File, offset: u64, bytes: &[u8]) -> Result<()> {
    let written = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
    written.with_context(|| {
        let folder = std::env::temp_dir();
        format!("cannot write decoded images to {}; set TMPDIR to use another folder", folder.display())
    })
}

/// Images that are stored in a temporary file.
pub struct Records {
    pub file: Arc<Mutex<File>>,
    pub shape: Shape,
    /// The distance between two records in bytes.
    pub stride: usize,
    /// For every image, the index of its record and whether the record is gray.
    pub entries: Vec<(u64, bool)>,
}

impl ImageSource for Records {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gray = vec![0; self.shape.pixels()];
        for (&number, target) in numbers.iter().zip(bytes.chunks_exact_mut(self.shape.len())) {
            let entry = self.entries.get(number as usize);
            let &(record, is_gray) = entry.with_context(|| format!("there is no image {number}"))?;
            let expand = is_gray && self.shape.channels > 1;
            let read = file.seek(SeekFrom::Start(record * self.stride as u64)).and_then(|_| match expand {
                true => file.read_exact(&mut gray),
                false => file.read_exact(target),
            });
            read.with_context(|| format!("cannot read decoded image {number} from the temporary file"))?;
            if expand {
                gray_to_channels(&gray, target, self.shape.channels);
            }
        }
        Ok(())
    }
}

/// Copies every gray value to all channels.
pub fn gray_to_channels(gray: &[u8], output: &mut [u8], channels: usize) {
    for (pixel, &value) in output.chunks_exact_mut(channels).zip(gray) {
        pixel.fill(value);
    }
}

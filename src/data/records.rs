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
    /// For every image, the index of its record and the record's number of channels, 1 or 3.
    pub entries: Vec<(u64, usize)>,
}

impl ImageSource for Records {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = Vec::new();
        for (&number, target) in numbers.iter().zip(bytes.chunks_exact_mut(self.shape.len())) {
            let entry = self.entries.get(number as usize);
            let &(index, channels) = entry.with_context(|| format!("there is no image {number}"))?;
            record.resize(channels * self.shape.pixels(), 0);
            let read =
                file.seek(SeekFrom::Start(index * self.stride as u64)).and_then(|_| file.read_exact(&mut record));
            read.with_context(|| format!("cannot read decoded image {number} from the temporary file"))?;
            convert_to(&record, channels, target, self.shape.channels);
        }
        Ok(())
    }
}

/// Converts pixels from `from` channels to `to`, which differ only if one is 1 and the other 3.
pub fn convert_to(pixels: &[u8], from: usize, output: &mut [u8], to: usize) {
    match (from, to) {
        (3, 1) => {
            for (value, pixel) in output.iter_mut().zip(pixels.chunks_exact(3)) {
                *value = gray_of([pixel[0], pixel[1], pixel[2]]);
            }
        }
        (1, 3) => output.chunks_exact_mut(3).zip(pixels).for_each(|(pixel, &value)| pixel.fill(value)),
        _ => output.copy_from_slice(pixels),
    }
}

/// The gray level of a colour: 0.299 red + 0.587 green + 0.114 blue, in PIL's fixed-point arithmetic.
pub fn gray_of([red, green, blue]: [u8; 3]) -> u8 {
    ((19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 0x8000) >> 16) as u8
}

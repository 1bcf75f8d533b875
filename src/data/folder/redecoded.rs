//! Pictures that are decoded again whenever they are needed.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::store::Pixels;
use super::{Bytes, decode};
use crate::data::records::spread;
use crate::images::ImageSource;
use crate::shape::Shape;

/// Files in the order of their images.
pub struct Redecoded {
    pub files: Vec<PathBuf>,
    pub shape: Shape,
    /// Whether they are brought to the size, or have it.
    pub scales: bool,
}

impl ImageSource for Redecoded {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        let targets = bytes.par_chunks_exact_mut(self.shape.len());
        numbers.par_iter().zip(targets).try_for_each(|(&number, target)| {
            let file = self.files.get(number as usize).with_context(|| format!("there is no picture {number}"))?;
            self.decode(file.clone(), target).with_context(|| {
                format!("the picture {} is no longer there as it was when the run began", file.display())
            })
        })
    }
}

impl Redecoded {
    fn decode(&self, file: PathBuf, target: &mut [u8]) -> Result<()> {
        let size = (self.shape.height, self.shape.width);
        let Pixels { channels, values, .. } = decode(&Bytes::In(file), Some(size), self.scales)?;
        ensure!(values.len() == channels * self.shape.pixels(), "it is of another size");
        ensure!(channels <= self.shape.channels, "it has colours, and had none");
        match channels == self.shape.channels {
            true => target.copy_from_slice(&values),
            false => spread(&values, target, self.shape.channels),
        }
        Ok(())
    }
}

//! Pictures that are decoded again every time they are needed.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::store::Pixels;
use super::{Encoded, decode};
use crate::data::crop::Target;
use crate::images::ImageSource;
use crate::shape::Shape;

/// The files of a split's pictures, in the order of its labels.
pub struct Redecoded {
    pub files: Vec<PathBuf>,
    pub shape: Shape,
    /// How to scale the pictures; if they are not scaled, they must already have the right size.
    pub target: Option<Target>,
}

impl ImageSource for Redecoded {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        let targets = bytes.par_chunks_exact_mut(self.shape.len());
        numbers.par_iter().zip(targets).try_for_each(|(&number, target)| {
            let file = self.files.get(number as usize).with_context(|| format!("there is no picture {number}"))?;
            self.decode(file.clone(), target).with_context(|| {
                format!("the picture {} has changed or disappeared since the run began", file.display())
            })
        })
    }
}

impl Redecoded {
    fn decode(&self, file: PathBuf, target: &mut [u8]) -> Result<()> {
        let size = (self.shape.height, self.shape.width);
        let Pixels { values, .. } = decode(&Encoded::File(file), Some(size), self.target, Some(self.shape.channels))?;
        ensure!(values.len() == target.len(), "it has a different size");
        target.copy_from_slice(&values);
        Ok(())
    }
}

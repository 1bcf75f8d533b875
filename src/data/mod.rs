//! Data sets: u8 images and labels, whole in memory, by name.

pub mod digits;
mod ink;
pub mod picture;

use crate::shape::Shape;

/// Images and their labels, in the order of the files.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// `[count][height][width][channels]`
    pub images: Vec<u8>,
    /// `[count]`, each below the number of classes.
    pub labels: Vec<u32>,
}

impl Split {
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// A data set as the trainer sees it.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub name: String,
    pub shape: Shape,
    /// One name per class; the index is the label.
    pub classes: Vec<String>,
    /// Per channel: a network's input is `(x / 255 − mean) / std`.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    pub train: Split,
    pub test: Split,
}

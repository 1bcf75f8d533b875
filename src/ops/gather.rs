//! A batch from the resident u8 data set, in the epoch's order, normalised on the way.

use anyhow::Result;

use super::Span;
use crate::shape::Shape;

/// Which of the resident sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subset {
    Train,
    Test,
}

/// `(x / 255 − mean) / std` per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalise {
    pub shape: Shape,
    /// `[channels]`
    pub mean: Vec<f32>,
    /// `[channels]`
    pub std: Vec<f32>,
}

/// The data set on the device.
pub trait GatherOps {
    /// Makes a set resident: `images` is `[count][height][width][channels]`, `labels` `[count]`.
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()>;

    /// Sets the order in which the set is gone through, and the position in it at which the next batch begins. It may
    /// name an image more than once.
    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()>;

    /// Writes the next `batch` images of the order, normalised, to `output`, keeps their labels for the loss, and
    /// moves the position on.
    fn gather_normalise(&mut self, subset: Subset, batch: usize, output: Span) -> Result<()>;
}

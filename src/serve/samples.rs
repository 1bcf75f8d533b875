//! Images of a data set, a few per class, that a visitor can choose.

use anyhow::{Result, ensure};

use crate::data::Dataset;
use crate::shape::Shape;

const PER_CLASS: usize = 24;

/// Some test images of every class.
#[derive(Debug)]
pub struct Samples {
    /// The name of the data set.
    pub dataset: String,
    /// `[class][image]`, each `[height][width][channels]`.
    pub images: Vec<Vec<Vec<u8>>>,
}

/// Whether there are samples. They are loaded while the page is already shown.
#[derive(Debug)]
pub enum SamplesState {
    Loading,
    Ready(Samples),
    /// Why there are none.
    Missing(String),
}

impl Samples {
    /// Takes the first test images of every class.
    ///
    /// # Errors
    /// If the images do not have the shape of the network's input, or can no longer be read.
    pub fn of(dataset: &Dataset, shape: Shape, classes: usize) -> Result<Self> {
        let test = &dataset.test;
        let own = test.shape.unwrap_or(dataset.shape);
        ensure!(own == shape, "the images of {} are {own}, but the network takes {shape}", dataset.name);
        let mut images = vec![Vec::new(); classes];
        for (number, &label) in test.labels.iter().enumerate() {
            let Some(of_class) = images.get_mut(label as usize).filter(|it| it.len() < PER_CLASS) else { continue };
            of_class.push(test.read(&[number as u32], shape.len())?);
        }
        Ok(Self { dataset: dataset.name.clone(), images })
    }
}

//! The name table of the networks; each is one small file and one line here.

mod lenet5;
pub mod mnist_cnn;

use anyhow::{Result, bail};

use crate::network::Network;
use crate::shape::Shape;

/// A network that `--model` knows.
pub struct Model {
    pub name: &'static str,
    /// For people, in one line.
    pub about: &'static str,
    /// The input it was made for, where no data set says otherwise.
    pub input: Shape,
    pub classes: usize,
    pub build: fn(input: Shape, classes: usize) -> Result<Network>,
}

/// All networks.
pub const TABLE: &[Model] = &[
    Model {
        name: "mnist-cnn",
        about: "four 3×3 convolutions and three linear layers, 99.3% on MNIST",
        input: Shape::new(28, 28, 1),
        classes: 10,
        build: mnist_cnn::build,
    },
    Model {
        name: "lenet5",
        about: "LeCun's network of 1998, tanh and average pooling, 98.8% and more on MNIST",
        input: Shape::new(28, 28, 1),
        classes: 10,
        build: lenet5::build,
    },
];

/// The model of that name.
///
/// # Errors
/// Where there is none; the message lists them all.
pub fn find(name: &str) -> Result<&'static Model> {
    match TABLE.iter().find(|model| model.name == name) {
        Some(model) => Ok(model),
        None => {
            let names: Vec<_> = TABLE.iter().map(|model| model.name).collect();
            bail!("there is no model {name:?}; --model takes one of: {}", names.join(", "))
        }
    }
}

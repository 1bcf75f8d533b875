//! `multiscale`: the last two of three convolution stages feed the classifier, as in Sermanet and LeCun, "Traffic Sign
//! Recognition with Multi-Scale Convolutional Networks" (2011).

use anyhow::Result;

use super::Model;
use crate::network::{Builder, Conv2dOptions, Network};
use crate::shape::{Shape, Window};

pub const MODEL: Model = Model {
    name: "multiscale",
    about: "three convolution stages, the last two of which feed the classifier; for MNIST and CIFAR",
    input: Shape::new(32, 32, 3),
    classes: 10,
    build,
};

/// Three stages of convolution, ReLU and pooling; the second is pooled again before the classifier.
pub fn build(input: Shape, classes: usize) -> Result<Network> {
    let halving = Window { kernel: 2, stride: 2, padding: 0 };
    let mut net = Builder::new("multiscale", input);
    let (mut x, mut stages) = (0, Vec::new());
    for (name, out_channels, kernel) in [("conv1", 32, 5), ("conv2", 64, 3), ("conv3", 128, 3)] {
        let options = Conv2dOptions { out_channels, kernel, padding: kernel / 2, ..Default::default() };
        x = net.conv2d(name, x, options)?;
        x = net.relu(x)?;
        x = net.max_pool2d(x, halving)?;
        stages.push(x);
    }
    let coarse = net.max_pool2d(stages[1], halving)?;
    let (second, third) = (net.flatten(coarse), net.flatten(stages[2]));
    x = net.concat(&[second, third])?;
    x = net.dropout(x, 0.5)?;
    x = net.linear("fc1", x, 256)?;
    x = net.relu(x)?;
    net.linear("fc2", x, classes)?;
    net.finish()
}

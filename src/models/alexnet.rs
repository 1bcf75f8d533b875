//! `alexnet`, as in torchvision: Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014).

use anyhow::Result;

use super::{IMAGENET, Model};
use crate::network::{Builder, Conv2dOptions, Network};
use crate::shape::{Shape, Window};

pub const MODEL: Model = Model {
    name: "alexnet",
    about: "five convolutions, three linear layers with dropout; 56.5% on ImageNet with torchvision's weights",
    input: IMAGENET,
    classes: 1000,
    build: |input, classes| with_widths("alexnet", input, classes, &Widths::FULL),
};

/// Output channels of the convolutions, and outputs of each hidden linear layer.
pub struct Widths {
    pub channels: [usize; 5],
    pub hidden: usize,
}

impl Widths {
    const FULL: Self = Self { channels: [64, 192, 384, 256, 256], hidden: 4096 };
}

/// AlexNet's structure at any width.
pub fn with_widths(name: &str, input: Shape, classes: usize, widths: &Widths) -> Result<Network> {
    // Index in torchvision's `features`, kernel, stride, padding, and whether a pooling follows.
    let layers =
        [(0, 11, 4, 2, true), (3, 5, 1, 2, true), (6, 3, 1, 1, false), (8, 3, 1, 1, false), (10, 3, 1, 1, true)];
    let mut net = Builder::new(name, input);
    let mut x = 0;
    for ((index, kernel, stride, padding, pooled), out_channels) in layers.into_iter().zip(widths.channels) {
        let options = Conv2dOptions { out_channels, kernel, stride, padding, ..Default::default() };
        x = net.conv2d(&format!("features.{index}"), x, options)?;
        x = net.relu(x)?;
        if pooled {
            x = net.max_pool2d(x, Window { kernel: 3, stride: 2, padding: 0 })?;
        }
    }
    x = net.adaptive_avg_pool2d(x, 6, 6)?;
    x = net.flatten(x);
    for index in [1, 4] {
        x = net.dropout(x, 0.5)?;
        x = net.linear(&format!("classifier.{index}"), x, widths.hidden)?;
        x = net.relu(x)?;
    }
    net.linear("classifier.6", x, classes)?;
    net.finish()
}

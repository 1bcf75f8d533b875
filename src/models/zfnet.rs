//! `zfnet`: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2013). AlexNet with a smaller
//! kernel and stride in the first layer. Local response normalisation follows the first two poolings, with AlexNet's
//! parameters.

use anyhow::Result;

use super::{IMAGENET, Model};
use crate::network::{Builder, Conv2dOptions, Network};
use crate::ops::{AnyLayer, Lrn};
use crate::shape::{Shape, Window};

pub const MODEL: Model = Model {
    name: "zfnet",
    about: "Zeiler and Fergus, 2013: five convolutions, local response normalisation, three linear layers",
    input: IMAGENET,
    classes: 1000,
    build: |input, classes| with_widths("zfnet", input, classes, &Widths::FULL),
};

/// Output channels of the convolutions, and outputs of each hidden linear layer.
pub struct Widths {
    pub channels: [usize; 5],
    pub hidden: usize,
}

impl Widths {
    const FULL: Self = Self { channels: [96, 256, 384, 384, 256], hidden: 4096 };
}

/// ZFNet's structure at any width; layers are named as in torchvision's networks.
pub fn with_widths(name: &str, input: Shape, classes: usize, widths: &Widths) -> Result<Network> {
    // Index in `features`, kernel, stride, padding, and the padding of the pooling that follows, if any.
    let layers =
        [(0, 7, 2, 1, Some(1)), (4, 5, 2, 0, Some(1)), (8, 3, 1, 1, None), (10, 3, 1, 1, None), (12, 3, 1, 1, Some(0))];
    let mut net = Builder::new(name, input);
    let mut x = 0;
    for ((index, kernel, stride, padding, pool), out_channels) in layers.into_iter().zip(widths.channels) {
        let options = Conv2dOptions { out_channels, kernel, stride, padding, ..Default::default() };
        x = net.conv2d(&format!("features.{index}"), x, options)?;
        x = net.relu(x)?;
        if let Some(padding) = pool {
            x = net.max_pool2d(x, Window { kernel: 3, stride: 2, padding })?;
        }
        if index < 8 {
            x = net.layer(x, AnyLayer::Lrn(Lrn { input: net.shape(x), size: 5, alpha: 1e-4, beta: 0.75, k: 2.0 }))?;
        }
    }
    x = net.adaptive_avg_pool2d(x, 6, 6)?;
    x = net.flatten(x);
    for index in [0, 3] {
        x = net.linear(&format!("classifier.{index}"), x, widths.hidden)?;
        x = net.relu(x)?;
        x = net.dropout(x, 0.5)?;
    }
    net.linear("classifier.6", x, classes)?;
    net.finish()
}

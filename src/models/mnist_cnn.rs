//! `mnist-cnn`, the reference network: four 3×3 convolutions without padding, two max poolings, three linear layers.

use anyhow::Result;

use crate::network::{Builder, Conv2dOptions, Network};
use crate::shape::{Shape, Window};

/// Output channels of the convolutions and outputs of the hidden linear layers.
pub struct Widths {
    pub channels: [usize; 4],
    pub hidden: [usize; 2],
}

/// The network at full width: 2,327,818 parameters for 1×28×28 images and 10 classes.
pub fn build(input: Shape, classes: usize) -> Result<Network> {
    with_widths("mnist-cnn", input, classes, &Widths { channels: [16, 32, 64, 128], hidden: [1024, 128] })
}

/// The network's structure at any width.
pub fn with_widths(name: &str, input: Shape, classes: usize, widths: &Widths) -> Result<Network> {
    let mut net = Builder::new(name, input);
    let mut x = 0;
    for (layer, &out_channels) in widths.channels.iter().enumerate() {
        x = net.conv2d(&format!("layer{}.0", layer + 1), x, Conv2dOptions { out_channels, ..Default::default() })?;
        x = net.relu(x)?;
        if layer % 2 == 1 {
            x = net.max_pool2d(x, Window { kernel: 2, stride: 2, padding: 0 })?;
        }
    }
    x = net.flatten(x);
    for (layer, &features) in widths.hidden.iter().enumerate() {
        x = net.linear(&format!("fc.{}", 2 * layer), x, features)?;
        x = net.relu(x)?;
    }
    net.linear("fc.4", x, classes)?;
    net.finish()
}

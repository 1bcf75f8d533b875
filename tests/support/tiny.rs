//! The network of the checkpoints and weights in `tests/reference`. The fuzz targets use this file too.

use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::shape::{Shape, Window};

/// A network with 27 + 29 weights and a batch normalisation.
pub fn tiny() -> Network {
    let mut net = Builder::new("tiny", Shape::new(6, 6, 1));
    let options = Conv2dOptions { out_channels: 2, kernel: 3, ..Conv2dOptions::default() };
    let mut x = net.conv2d("conv", 0, options).expect("a convolution");
    x = net.batch_norm2d("norm", x).expect("a batch normalisation");
    x = net.relu(x).expect("an activation");
    x = net.max_pool2d(x, Window { kernel: 2, stride: 2, padding: 0 }).expect("a pooling");
    x = net.flatten(x);
    net.linear("fc", x, 3).expect("a linear layer");
    net.finish().expect("a network")
}

//! `lenet5`: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998), in
//! the form common in PyTorch: tanh, average pooling without weights, a fully connected C3, and a softmax output.

use anyhow::Result;

use crate::network::{Builder, Conv2dOptions, Network};
use crate::ops::Activation;
use crate::shape::{Shape, Window};

/// Layers have the names of PyTorch's tutorials: `conv1`, `conv2`, `fc1`, `fc2`, `fc3`. Inputs below 32×32, the size in
/// the paper, are padded by 2 pixels on each side.
pub fn build(input: Shape, classes: usize) -> Result<Network> {
    let halving = Window { kernel: 2, stride: 2, padding: 0 };
    let padding = if input.height < 32 { 2 } else { 0 };
    let mut net = Builder::new("lenet5", input);
    let mut x = net.conv2d("conv1", 0, Conv2dOptions { out_channels: 6, kernel: 5, padding, ..Default::default() })?;
    x = net.activation(x, Activation::Tanh)?;
    x = net.avg_pool2d(x, halving)?;
    x = net.conv2d("conv2", x, Conv2dOptions { out_channels: 16, kernel: 5, ..Default::default() })?;
    x = net.activation(x, Activation::Tanh)?;
    x = net.avg_pool2d(x, halving)?;
    x = net.flatten(x);
    for (name, features) in [("fc1", 120), ("fc2", 84)] {
        x = net.linear(name, x, features)?;
        x = net.activation(x, Activation::Tanh)?;
    }
    net.linear("fc3", x, classes)?;
    net.finish()
}

//! The network of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498), with the layer names of
//! its code. Training it needs the recipe `recipes/airnet-cifar10.toml`, whose first layer whitens the images.

use anyhow::Result;

use super::Model;
use crate::network::{Builder, Conv2dOptions, ConvInitial, Initial, Network, NodeId, NormOptions};
use crate::ops::{AnyLayer, Function, Pointwise};
use crate::shape::{Shape, Window};

pub const MODEL: Model = Model {
    name: "airnet",
    about: "airbench's network for CIFAR-10: a whitening layer and six 3×3 convolutions; see its recipe",
    input: Shape::new(32, 32, 3),
    classes: 10,
    build: |input, classes| build(input, classes, [64, 256, 256]),
};

/// The network with the given number of channels in each of its blocks.
pub fn build(input: Shape, classes: usize, widths: [usize; 3]) -> Result<Network> {
    let mut net = Builder::new("airnet", input);
    // Each eigenvector of a 2×2 patch, with both signs.
    let whiten = Conv2dOptions { out_channels: 2 * 4 * input.channels, kernel: 2, ..Default::default() };
    let mut x = net.conv2d("whiten", 0, whiten)?;
    x = gelu(&mut net, x)?;
    for (block, width) in (1..).zip(widths) {
        let module = format!("layers.{block}");
        x = convolution(&mut net, &format!("{module}.conv1"), x, width)?;
        x = net.max_pool2d(x, Window { kernel: 2, stride: 2, padding: 0 })?;
        x = normalisation(&mut net, &format!("{module}.norm1"), x)?;
        x = convolution(&mut net, &format!("{module}.conv2"), x, width)?;
        x = normalisation(&mut net, &format!("{module}.norm2"), x)?;
    }
    x = net.max_pool2d(x, Window { kernel: 3, stride: 3, padding: 0 })?;
    // The logits are divided by the number of features.
    let shape = net.shape(x);
    let function = Function::Scale { factor: 1.0 / shape.len() as f32 };
    x = net.layer(x, AnyLayer::Pointwise(Pointwise { input: shape, function }))?;
    x = net.flatten(x);
    let head = net.linear_with("head", x, classes, false)?;
    net.set_initial(head, Initial::Normal { deviation: 1.0 }, Initial::Constant(0.0));
    net.finish()
}

fn convolution(net: &mut Builder, name: &str, input: NodeId, out_channels: usize) -> Result<NodeId> {
    let (padding, initial) = (1, ConvInitial::Identity);
    net.conv2d(name, input, Conv2dOptions { out_channels, padding, bias: false, initial, ..Default::default() })
}

/// A batch normalisation without learned scale, then GELU. The running statistics forget quickly.
fn normalisation(net: &mut Builder, name: &str, input: NodeId) -> Result<NodeId> {
    let options = NormOptions { epsilon: 1e-12, momentum: 0.4, learned_scale: false };
    let x = net.batch_norm2d_with(name, input, options)?;
    gelu(net, x)
}

fn gelu(net: &mut Builder, input: NodeId) -> Result<NodeId> {
    net.layer(input, AnyLayer::Pointwise(Pointwise { input: net.shape(input), function: Function::Gelu }))
}

//! Residual networks (He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015): torchvision's
//! networks for ImageNet, and the paper's for CIFAR.

use anyhow::Result;

use super::Model;
use crate::network::{Builder, Conv2dOptions, ConvInitial, Network, NodeId};
use crate::ops::{AnyLayer, Subsample};
use crate::shape::{Shape, Window};

/// The stages of a residual network.
pub struct Layers<'a> {
    /// Channels of each stage, before a bottleneck block expands them.
    pub widths: &'a [usize],
    /// Number of blocks in each stage.
    pub blocks: &'a [usize],
    pub kind: Kind,
}

/// The kind of blocks and stem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Blocks of two 3×3 convolutions; the stem is a 7×7 convolution and a max pooling.
    Basic,
    /// Blocks of 1×1, 3×3 and 1×1 convolutions, the last with four times the channels; the same stem as `Basic`.
    Bottleneck,
    /// Blocks of two 3×3 convolutions, a 3×3 stem, and parameter-free shortcuts (the paper's option A).
    Cifar,
}

/// A table entry for a torchvision network: 1000 classes, 224×224 images.
pub const fn imagenet(name: &'static str, about: &'static str, build: super::Build) -> Model {
    Model { name, about, input: Shape::new(224, 224, 3), classes: 1000, build }
}

/// A table entry for one of the paper's networks for CIFAR-10.
pub const fn cifar(name: &'static str, about: &'static str, build: super::Build) -> Model {
    Model { name, about, input: Shape::new(32, 32, 3), classes: 10, build }
}

/// torchvision's network with the given number of blocks in each of its four stages.
pub fn torchvision(name: &str, input: Shape, classes: usize, kind: Kind, blocks: [usize; 4]) -> Result<Network> {
    build(name, input, classes, &Layers { widths: &[64, 128, 256, 512], blocks: &blocks, kind })
}

/// The paper's network for CIFAR, with `6 · blocks + 2` layers.
pub fn for_cifar(name: &str, input: Shape, classes: usize, blocks: usize) -> Result<Network> {
    build(name, input, classes, &Layers { widths: &[16, 32, 64], blocks: &[blocks; 3], kind: Kind::Cifar })
}

/// Any residual network, with torchvision's parameter names.
pub fn build(name: &str, input: Shape, classes: usize, layers: &Layers) -> Result<Network> {
    let mut net = Resnet { builder: Builder::new(name, input), kind: layers.kind };
    let width = layers.widths.first().copied().unwrap_or(1);
    let (kernel, stride) = if layers.kind == Kind::Cifar { (3, 1) } else { (7, 2) };
    let mut x = net.conv_norm("conv1", "bn1", 0, width, kernel, stride)?;
    x = net.builder.relu(x)?;
    if layers.kind != Kind::Cifar {
        x = net.builder.max_pool2d(x, Window { kernel: 3, stride: 2, padding: 1 })?;
    }
    for (stage, (&width, &blocks)) in layers.widths.iter().zip(layers.blocks).enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = net.block(&format!("layer{}.{block}", stage + 1), x, width, stride)?;
        }
    }
    let mut net = net.builder;
    x = net.global_avg_pool2d(x)?;
    x = net.flatten(x);
    net.linear("fc", x, classes)?;
    net.finish()
}

struct Resnet {
    builder: Builder,
    kind: Kind,
}

impl Resnet {
    /// A convolution without bias, followed by batch normalisation.
    fn conv_norm(
        &mut self,
        conv: &str,
        norm: &str,
        input: NodeId,
        out_channels: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<NodeId> {
        let (padding, initial) = (kernel / 2, ConvInitial::FanOut);
        let plain = Conv2dOptions::default();
        let options = Conv2dOptions { out_channels, kernel, stride, padding, bias: false, initial, ..plain };
        let conv = self.builder.conv2d(conv, input, options)?;
        self.builder.batch_norm2d(norm, conv)
    }

    fn block(&mut self, name: &str, input: NodeId, width: usize, stride: usize) -> Result<NodeId> {
        // Output channels, kernel and stride of each convolution.
        let convolutions = match self.kind {
            Kind::Basic | Kind::Cifar => vec![(width, 3, stride), (width, 3, 1)],
            Kind::Bottleneck => vec![(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)],
        };
        let (mut x, last) = (input, convolutions.len());
        for (index, (out_channels, kernel, stride)) in (1..).zip(convolutions) {
            let (conv, norm) = (format!("{name}.conv{index}"), format!("{name}.bn{index}"));
            x = self.conv_norm(&conv, &norm, x, out_channels, kernel, stride)?;
            if index < last {
                x = self.builder.relu(x)?;
            }
        }
        let (shape, output) = (self.builder.shape(input), self.builder.shape(x));
        let shortcut = match self.kind {
            _ if shape == output => input,
            Kind::Cifar => {
                let shape = self.builder.shape(input);
                self.builder
                    .layer(input, AnyLayer::Subsample(Subsample { input: shape, stride, channels: output.channels }))?
            }
            Kind::Basic | Kind::Bottleneck => {
                let (conv, norm) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
                self.conv_norm(&conv, &norm, input, output.channels, 1, stride)?
            }
        };
        let sum = self.builder.add(x, shortcut)?;
        self.builder.relu(sum)
    }
}

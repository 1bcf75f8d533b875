//! `vgg11` to `vgg19`, as in torchvision: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale
//! Image Recognition" (2014).

use anyhow::Result;

use super::{IMAGENET, Model};
use crate::network::{Builder, Conv2dOptions, Initial, Network};
use crate::shape::{Shape, Window};

/// Number of convolutions in each of the five stages.
type Stages = [usize; 5];

pub const VGG11: Model = model("vgg11", "8 convolutions, 3 linear layers; 69.0% on ImageNet", build::<11, false>);
pub const VGG13: Model = model("vgg13", "10 convolutions, 3 linear layers; 69.9% on ImageNet", build::<13, false>);
pub const VGG16: Model = model("vgg16", "13 convolutions, 3 linear layers; 71.6% on ImageNet", build::<16, false>);
pub const VGG19: Model = model("vgg19", "16 convolutions, 3 linear layers; 72.4% on ImageNet", build::<19, false>);
pub const VGG11_BN: Model = model("vgg11_bn", "vgg11 with batch normalisation; 70.4% on ImageNet", build::<11, true>);
pub const VGG13_BN: Model = model("vgg13_bn", "vgg13 with batch normalisation; 71.6% on ImageNet", build::<13, true>);
pub const VGG16_BN: Model = model("vgg16_bn", "vgg16 with batch normalisation; 73.4% on ImageNet", build::<16, true>);
pub const VGG19_BN: Model = model("vgg19_bn", "vgg19 with batch normalisation; 74.2% on ImageNet", build::<19, true>);

/// `about` gives the accuracy of torchvision's weights.
const fn model(name: &'static str, about: &'static str, build: super::Build) -> Model {
    Model { name, about, input: IMAGENET, classes: 1000, build }
}

/// The network with `LAYERS` layers that have weights, three of which are linear.
fn build<const LAYERS: usize, const BATCH_NORM: bool>(input: Shape, classes: usize) -> Result<Network> {
    let stages: Stages = match LAYERS {
        11 => [1, 1, 2, 2, 2],
        13 => [2, 2, 2, 2, 2],
        16 => [2, 2, 3, 3, 3],
        19 => [2, 2, 4, 4, 4],
        _ => unreachable!("the constants above have no other number"),
    };
    let name = format!("vgg{LAYERS}{}", if BATCH_NORM { "_bn" } else { "" });
    let widths = Widths { stages, channels: [64, 128, 256, 512, 512], hidden: 4096, batch_norm: BATCH_NORM };
    with_widths(&name, input, classes, &widths)
}

/// Depth and widths of a VGG network.
pub struct Widths {
    pub stages: Stages,
    /// Output channels of every stage.
    pub channels: [usize; 5],
    /// Outputs of each hidden linear layer.
    pub hidden: usize,
    /// Whether a batch normalisation follows every convolution.
    pub batch_norm: bool,
}

/// VGG's structure at any width. Initial values are torchvision's: `kaiming_normal_(mode="fan_out")` for convolutions,
/// normal with standard deviation 0.01 for linear layers, zero biases.
pub fn with_widths(name: &str, input: Shape, classes: usize, widths: &Widths) -> Result<Network> {
    let mut net = Builder::new(name, input);
    let (mut x, mut index) = (0, 0); // `index` counts modules of torchvision's `features`
    for (convolutions, out_channels) in widths.stages.into_iter().zip(widths.channels) {
        for _ in 0..convolutions {
            let options = Conv2dOptions { out_channels, padding: 1, ..Default::default() };
            x = net.conv2d(&format!("features.{index}"), x, options)?;
            let deviation = (2.0 / (9 * out_channels) as f32).sqrt();
            net.set_initial(x, Initial::Normal { deviation }, Initial::Constant(0.0));
            if widths.batch_norm {
                index += 1;
                x = net.batch_norm2d(&format!("features.{index}"), x)?;
            }
            x = net.relu(x)?;
            index += 2;
        }
        x = net.max_pool2d(x, Window { kernel: 2, stride: 2, padding: 0 })?;
        index += 1;
    }
    x = net.adaptive_avg_pool2d(x, 7, 7)?;
    x = net.flatten(x);
    for index in [0, 3] {
        x = linear(&mut net, index, x, widths.hidden)?;
        x = net.relu(x)?;
        x = net.dropout(x, 0.5)?;
    }
    linear(&mut net, 6, x, classes)?;
    net.finish()
}

fn linear(net: &mut Builder, index: usize, input: usize, out_features: usize) -> Result<usize> {
    let node = net.linear(&format!("classifier.{index}"), input, out_features)?;
    net.set_initial(node, Initial::Normal { deviation: 0.01 }, Initial::Constant(0.0));
    Ok(node)
}

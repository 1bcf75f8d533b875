//! `vgg11` to `vgg19`, as in torchvision: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale
//! Image Recognition" (2014).

use anyhow::Result;

use super::{IMAGENET, Model};
use crate::network::{Builder, Conv2dOptions, Initial, Network};
use crate::shape::{Shape, Window};

/// Number of convolutions in each of the five stages.
type Stages = [usize; 5];

const STAGES_11: Stages = [1, 1, 2, 2, 2];
const STAGES_13: Stages = [2, 2, 2, 2, 2];
const STAGES_16: Stages = [2, 2, 3, 3, 3];
const STAGES_19: Stages = [2, 2, 4, 4, 4];

pub const VGG11: Model = model(
    "vgg11",
    "8 convolutions, 3 linear layers; 69.0% on ImageNet with torchvision's weights",
    |input, classes| full("vgg11", input, classes, STAGES_11, false),
);
pub const VGG13: Model = model(
    "vgg13",
    "10 convolutions, 3 linear layers; 69.9% on ImageNet with torchvision's weights",
    |input, classes| full("vgg13", input, classes, STAGES_13, false),
);
pub const VGG16: Model = model(
    "vgg16",
    "13 convolutions, 3 linear layers; 71.6% on ImageNet with torchvision's weights",
    |input, classes| full("vgg16", input, classes, STAGES_16, false),
);
pub const VGG19: Model = model(
    "vgg19",
    "16 convolutions, 3 linear layers; 72.4% on ImageNet with torchvision's weights",
    |input, classes| full("vgg19", input, classes, STAGES_19, false),
);
pub const VGG11_BN: Model = model(
    "vgg11_bn",
    "8 convolutions with batch normalisation, 3 linear layers; 70.4% on ImageNet with torchvision's weights",
    |input, classes| full("vgg11_bn", input, classes, STAGES_11, true),
);
pub const VGG13_BN: Model = model(
    "vgg13_bn",
    "10 convolutions with batch normalisation, 3 linear layers; 71.6% on ImageNet with torchvision's weights",
    |input, classes| full("vgg13_bn", input, classes, STAGES_13, true),
);
pub const VGG16_BN: Model = model(
    "vgg16_bn",
    "13 convolutions with batch normalisation, 3 linear layers; 73.4% on ImageNet with torchvision's weights",
    |input, classes| full("vgg16_bn", input, classes, STAGES_16, true),
);
pub const VGG19_BN: Model = model(
    "vgg19_bn",
    "16 convolutions with batch normalisation, 3 linear layers; 74.2% on ImageNet with torchvision's weights",
    |input, classes| full("vgg19_bn", input, classes, STAGES_19, true),
);

const fn model(name: &'static str, about: &'static str, build: super::Build) -> Model {
    Model { name, about, input: IMAGENET, classes: 1000, build }
}

fn full(name: &str, input: Shape, classes: usize, stages: Stages, batch_norm: bool) -> Result<Network> {
    let widths = Widths { stages, channels: [64, 128, 256, 512, 512], hidden: 4096, batch_norm };
    with_widths(name, input, classes, &widths)
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

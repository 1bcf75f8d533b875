//! The table of all networks. Each network is one small file and one entry here.

pub mod airnet;
pub mod alexnet;
pub mod googlenet;
mod lenet5;
pub mod mnist_cnn;
mod multiscale;
pub mod neocognitron;
pub mod resnet;
pub mod vgg;
pub mod zfnet;

use anyhow::{Result, bail};

use crate::network::Network;
use crate::shape::Shape;
use resnet::Kind;

/// Builds a network for an input shape and a number of classes.
pub type Build = fn(input: Shape, classes: usize) -> Result<Network>;

/// A network that `--model` accepts.
pub struct Model {
    pub name: &'static str,
    /// A one-line description.
    pub about: &'static str,
    /// The input that it was designed for, used if there is no data set.
    pub input: Shape,
    pub classes: usize,
    pub build: Build,
}

/// The input of networks for ImageNet.
const IMAGENET: Shape = Shape::new(224, 224, 3);

/// All networks.
pub const TABLE: &[Model] = &[
    Model {
        name: "mnist-cnn",
        about: "four 3×3 convolutions and three linear layers, 99.2% on MNIST",
        input: Shape::new(28, 28, 1),
        classes: 10,
        build: mnist_cnn::build,
    },
    Model {
        name: "lenet5",
        about: "LeCun's LeNet-5 of 1998 with tanh and average pooling, over 98.8% on MNIST",
        input: Shape::new(28, 28, 1),
        classes: 10,
        build: lenet5::build,
    },
    resnet::cifar("resnet20", "He et al.'s 20-layer residual network for CIFAR-10", |i, c| {
        resnet::for_cifar("resnet20", i, c, 3)
    }),
    resnet::cifar("resnet32", "He et al.'s 32-layer residual network for CIFAR-10", |i, c| {
        resnet::for_cifar("resnet32", i, c, 5)
    }),
    resnet::cifar("resnet56", "He et al.'s 56-layer residual network for CIFAR-10", |i, c| {
        resnet::for_cifar("resnet56", i, c, 9)
    }),
    resnet::imagenet("resnet18", "torchvision's 18-layer residual network for ImageNet", |i, c| {
        resnet::torchvision("resnet18", i, c, Kind::Basic, [2, 2, 2, 2])
    }),
    resnet::imagenet("resnet34", "torchvision's 34-layer residual network for ImageNet", |i, c| {
        resnet::torchvision("resnet34", i, c, Kind::Basic, [3, 4, 6, 3])
    }),
    resnet::imagenet("resnet50", "torchvision's 50-layer residual network with bottleneck blocks", |i, c| {
        resnet::torchvision("resnet50", i, c, Kind::Bottleneck, [3, 4, 6, 3])
    }),
    resnet::imagenet("resnet101", "torchvision's 101-layer residual network with bottleneck blocks", |i, c| {
        resnet::torchvision("resnet101", i, c, Kind::Bottleneck, [3, 4, 23, 3])
    }),
    resnet::imagenet("resnet152", "torchvision's 152-layer residual network with bottleneck blocks", |i, c| {
        resnet::torchvision("resnet152", i, c, Kind::Bottleneck, [3, 8, 36, 3])
    }),
    airnet::MODEL,
    multiscale::MODEL,
    neocognitron::MODEL,
    alexnet::MODEL,
    zfnet::MODEL,
    vgg::VGG11,
    vgg::VGG13,
    vgg::VGG16,
    vgg::VGG19,
    vgg::VGG11_BN,
    vgg::VGG13_BN,
    vgg::VGG16_BN,
    vgg::VGG19_BN,
    googlenet::MODEL,
];

/// Whether the model of this name learns by a rule of its own instead of gradient descent.
pub fn has_own_rule(name: &str) -> bool {
    name == neocognitron::MODEL.name
}

/// The model with the given name.
///
/// # Errors
/// If there is none; the message lists all models.
pub fn find(name: &str) -> Result<&'static Model> {
    match TABLE.iter().find(|model| model.name == name) {
        Some(model) => Ok(model),
        None => {
            let names: Vec<_> = TABLE.iter().map(|model| model.name).collect();
            bail!("unknown model {name:?}; --model takes one of: {}", names.join(", "))
        }
    }
}

//! The name table of the networks; each is one small file and one line here.

pub mod alexnet;
pub mod googlenet;
mod lenet5;
pub mod mnist_cnn;
mod multiscale;
pub mod resnet;
pub mod vgg;
pub mod zfnet;

use anyhow::{Result, bail};

use crate::network::Network;
use crate::shape::Shape;
use resnet::Kind;

/// Makes a network for an input and a number of classes.
pub type Build = fn(input: Shape, classes: usize) -> Result<Network>;

/// A network that `--model` knows.
pub struct Model {
    pub name: &'static str,
    /// For people, in one line.
    pub about: &'static str,
    /// The input it was made for, where no data set says otherwise.
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
        about: "four 3×3 convolutions and three linear layers, 99.3% on MNIST",
        input: Shape::new(28, 28, 1),
        classes: 10,
        build: mnist_cnn::build,
    },
    Model {
        name: "lenet5",
        about: "LeCun's network of 1998, tanh and average pooling, 98.8% and more on MNIST",
        input: Shape::new(28, 28, 1),
        classes: 10,
        build: lenet5::build,
    },
    resnet::cifar("resnet20", "He et al.'s residual network of 20 layers for CIFAR-10", |i, c| {
        resnet::for_cifar("resnet20", i, c, 3)
    }),
    resnet::cifar("resnet32", "the same of 32 layers", |i, c| resnet::for_cifar("resnet32", i, c, 5)),
    resnet::cifar("resnet56", "the same of 56 layers", |i, c| resnet::for_cifar("resnet56", i, c, 9)),
    resnet::imagenet("resnet18", "torchvision's residual network of 18 layers for ImageNet", |i, c| {
        resnet::torchvision("resnet18", i, c, Kind::Basic, [2, 2, 2, 2])
    }),
    resnet::imagenet("resnet34", "the same of 34 layers", |i, c| {
        resnet::torchvision("resnet34", i, c, Kind::Basic, [3, 4, 6, 3])
    }),
    resnet::imagenet("resnet50", "the same of 50 layers, with bottlenecks", |i, c| {
        resnet::torchvision("resnet50", i, c, Kind::Bottleneck, [3, 4, 6, 3])
    }),
    resnet::imagenet("resnet101", "the same of 101 layers", |i, c| {
        resnet::torchvision("resnet101", i, c, Kind::Bottleneck, [3, 4, 23, 3])
    }),
    resnet::imagenet("resnet152", "the same of 152 layers", |i, c| {
        resnet::torchvision("resnet152", i, c, Kind::Bottleneck, [3, 8, 36, 3])
    }),
    multiscale::MODEL,
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

/// The model of that name.
///
/// # Errors
/// Where there is none; the message lists them all.
pub fn find(name: &str) -> Result<&'static Model> {
    match TABLE.iter().find(|model| model.name == name) {
        Some(model) => Ok(model),
        None => {
            let names: Vec<_> = TABLE.iter().map(|model| model.name).collect();
            bail!("there is no model {name:?}; --model takes one of: {}", names.join(", "))
        }
    }
}

//! Narrow networks compared with PyTorch: logits in evaluation, and the losses of three training steps without dropout.

use std::fs;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::Cuda;
use cnn_cuda::models::{alexnet, googlenet, vgg, zfnet};
use cnn_cuda::network::{Network, Weights};
use cnn_cuda::ops::{Backend, Optimizer, Precision, Rule};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, Trainer};

use super::harness::{Listener, dataset, hyperparameters, logits};
use super::parity::from_tensors;
use crate::ops::cuda::options;
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::cuda::on_cuda;

/// The same widths as in `tests/reference/networks.py`.
const CHANNELS: [usize; 5] = [4, 6, 8, 8, 6];
const HIDDEN: usize = 16;
const CLASSES: usize = 5;

pub fn networks() -> Vec<Network> {
    let shape = |size| Shape::new(size, size, 3);
    let alexnet = alexnet::Widths { channels: CHANNELS, hidden: HIDDEN };
    let zfnet = zfnet::Widths { channels: CHANNELS, hidden: HIDDEN };
    let vgg = vgg::Widths { stages: [1, 1, 2, 2, 2], channels: CHANNELS, hidden: HIDDEN, batch_norm: false };
    let all = [
        alexnet::with_widths("alexnet", shape(63), CLASSES, &alexnet),
        zfnet::with_widths("zfnet", shape(63), CLASSES, &zfnet),
        vgg::with_widths("vgg", shape(32), CLASSES, &vgg),
        vgg::with_widths("vgg_bn", shape(32), CLASSES, &vgg::Widths { batch_norm: true, ..vgg }),
        googlenet::narrowed("googlenet", shape(64), CLASSES, 16),
    ];
    all.into_iter().map(|network| network.expect("a network").with_dropout(0.0)).collect()
}

/// Converts bytes from `[n, c, h, w]` to `[n, h, w, c]`.
fn channels_last(bytes: &[u8], shape: Shape) -> Vec<u8> {
    let mut images = vec![0; bytes.len()];
    for (index, &byte) in bytes.iter().enumerate() {
        let (sample, channel, pixel) =
            (index / shape.len(), index / shape.pixels() % shape.channels, index % shape.pixels());
        images[sample * shape.len() + pixel * shape.channels + channel] = byte;
    }
    images
}

/// The weights of a network.
pub fn weights(network: &Network, tensors: &Tensors) -> Weights {
    let value = |key: &str| tensors.get(&format!("{}.weight.{key}", network.name)).0;
    let mut statistics = network.initial_statistics();
    for batch_norm in &network.statistics {
        let both = ["running_mean", "running_var"].map(|what| value(&format!("{}.{what}", batch_norm.name)));
        statistics.values[batch_norm.range()].copy_from_slice(&both.concat());
    }
    Weights { parameters: from_tensors(network, value), statistics }
}

/// The images of a network, `[n][height][width][channels]`.
fn images(network: &Network, tensors: &Tensors) -> Vec<u8> {
    channels_last(tensors.bytes(&format!("{}.images", network.name)), network.input())
}

/// The same, normalised.
pub fn inputs(network: &Network, tensors: &Tensors) -> Vec<f32> {
    images(network, tensors).iter().map(|&byte| (f32::from(byte) / 255.0 - 0.5) / 0.5).collect()
}

fn check<B: Backend>(backend: impl Fn() -> B) {
    let bytes = fs::read("tests/reference/networks.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    // Sums are in another order, and their differences pass through a dozen layers.
    let tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
    for network in networks() {
        let name = network.name.clone();
        let (weights, images) = (weights(&network, &tensors), images(&network, &tensors));
        let expected =
            |what: &str| -> Vec<f64> { tensors.get(&format!("{name}.{what}")).0.into_iter().map(f64::from).collect() };
        let plan = Plan::new(&network, Mode::Inference, 4).expect("a plan");
        let got = logits(&mut backend(), &plan, &weights, &inputs(&network, &tensors));
        compare(&format!("{name} logits"), &got, &expected("logits"), tolerance);

        let labels = tensors.integers(&format!("{name}.labels")).iter().map(|&label| label as u32).collect();
        let optimizer = Optimizer { rule: Rule::sgd(0.9, false), ..Optimizer::default() };
        let hyper = Hyperparameters { epochs: 3, optimizer, ..hyperparameters(4, 0.02) };
        let set = dataset(network.input(), CLASSES, images, labels);
        let mut trainer = Trainer::new(backend(), network, set, hyper).expect("a trainer");
        trainer.set_weights(&weights).expect("weights");
        let mut listener = Listener::default();
        trainer.run(&mut listener).expect("a run");
        compare(&format!("{name} losses"), &listener.losses, &expected("losses"), tolerance);
    }
}

#[test]
fn narrow_networks_give_pytorchs_logits_and_losses() {
    check(|| Cpu::new(Some(2)).expect("two threads"));
}

#[test]
fn narrow_networks_give_pytorchs_logits_and_losses_on_cuda() {
    on_cuda(|| check(|| Cuda::new(options(Precision::Fp32)).expect("a CUDA device")));
}

//! Batch normalisation folded into convolutions: PyTorch's `fuse_conv_bn_eval`, the logits of whole networks, and what is
//! not folded (`tests/reference/folding.safetensors`).

use std::fs;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::network::{Builder, Conv2dOptions, Network, NodeId, NormOptions, Operator, Weights};
use cnn_cuda::ops::{Activation, Backend, Precision};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::Shape;

use super::harness::logits;
use super::norm::normalised;
use super::parity::from_tensors;
use super::{networks, resnet};
use crate::ops::cuda::{FP16, options};
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::cuda::on_cuda;

/// The convolutions of `tests/reference/folding.py`.
fn cases() -> [(&'static str, usize, Conv2dOptions); 7] {
    let conv = Conv2dOptions::default();
    [
        ("plain", 3, Conv2dOptions { out_channels: 5, bias: false, ..conv }),
        ("bias", 4, Conv2dOptions { out_channels: 6, padding: 1, ..conv }),
        ("winograd", 16, Conv2dOptions { out_channels: 32, padding: 1, bias: false, ..conv }),
        ("grouped", 6, Conv2dOptions { out_channels: 4, groups: 2, padding: 1, ..conv }),
        ("depthwise", 8, Conv2dOptions { out_channels: 8, groups: 8, stride: 2, bias: false, ..conv }),
        ("dilated", 3, Conv2dOptions { out_channels: 4, dilation: 2, padding: 2, ..conv }),
        ("pointwise", 8, Conv2dOptions { out_channels: 3, kernel: 1, bias: false, ..conv }),
    ]
}

fn reference() -> Vec<u8> {
    fs::read("tests/reference/folding.safetensors").expect("the committed reference")
}

/// A convolution, its normalisation and an activation, with their weights.
fn conv_and_norm(
    tensors: &Tensors,
    (name, channels, options): (&str, usize, Conv2dOptions),
    activation: Activation,
) -> (Network, Weights) {
    let mut net = Builder::new(name, Shape::new(9, 8, channels));
    let conv = net.conv2d("conv", 0, options).expect("it fits");
    let options = NormOptions { epsilon: 1e-3, ..NormOptions::default() };
    let norm = net.batch_norm2d_with("bn", conv, options).expect("it fits");
    let activated = net.activation(norm, activation).expect("it fits");
    net.flatten(activated);
    let network = net.finish().expect("a network");
    let value = |key: &str| tensors.get(&format!("{name}.{key}")).0;
    let mut statistics = network.initial_statistics();
    statistics.values = ["bn.running_mean", "bn.running_var"].map(value).concat();
    let parameters = from_tensors(&network, value);
    (network, Weights { parameters, statistics })
}

/// The numbers of an evaluated network.
fn outputs<B: Backend>(mut backend: B, network: &Network, weights: &Weights, batch: usize, input: &[f32]) -> Vec<f32> {
    let plan = Plan::new(network, Mode::Inference, batch).expect("a plan");
    logits(&mut backend, &plan, weights, input)
}

fn cpu() -> Cpu {
    Cpu::new(Some(2)).expect("two threads")
}

/// Values in `[-1, 1)` that look random.
fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index * 7919 % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn norms(network: &Network) -> usize {
    network.nodes.iter().filter(|node| matches!(node.operator, Operator::BatchNorm2d(_))).count()
}

#[test]
fn folded_weights_are_pytorchs() {
    let bytes = reference();
    let tensors = Tensors::new(&bytes);
    for case in cases() {
        let name = case.0;
        let (network, weights) = conv_and_norm(&tensors, case, Activation::Relu);
        let (folded, found) = network.folded(&weights);
        let [_, conv, _, _] = &folded.nodes[..] else { panic!("{name}: {:?}", folded.nodes) };
        assert_eq!((conv.name.as_str(), conv.shape), ("conv", network.nodes[2].shape), "{name}");
        let expected =
            [tensors.channels_last(&format!("{name}.fused.weight")), tensors.get(&format!("{name}.fused.bias")).0];
        for (index, expected) in [conv.weight, conv.bias].into_iter().zip(expected) {
            let values = &found.parameters[network.parameters[index.expect("both exist")].range()];
            assert_eq!(values.len(), expected.len(), "{name}");
            // Both round a number in f64, which may differ in its last bits.
            let is_close = |(a, b): (&f32, &f32)| a == b || a.next_up() == *b || a.next_down() == *b;
            assert!(values.iter().zip(&expected).all(is_close), "{name}: {values:?} {expected:?}");
        }
    }
}

/// Sums of at most 144 products below 10.
const FP32: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };

/// Compares folded convolutions with what convolution and normalisation compute on the CPU.
fn check_convolutions<B: Backend>(backend: impl Fn() -> B, tolerance: Tolerance) {
    let bytes = reference();
    let tensors = Tensors::new(&bytes);
    for (case, activation) in cases().into_iter().zip([Activation::Relu, Activation::Tanh].into_iter().cycle()) {
        let (network, weights) = conv_and_norm(&tensors, case, activation);
        let (folded, found) = network.folded(&weights);
        let input = noise(3 * network.input().len());
        let expected: Vec<f64> = outputs(cpu(), &network, &weights, 3, &input).iter().map(|&v| v.into()).collect();
        compare(case.0, &outputs(backend(), &folded, &found, 3, &input), &expected, tolerance);
    }
}

#[test]
fn a_folded_convolution_computes_what_both_computed() {
    check_convolutions(cpu, FP32);
}

#[test]
fn a_folded_convolution_computes_what_both_computed_on_cuda() {
    on_cuda(|| {
        for (precision, tolerance) in [(Precision::Fp32, FP32), (Precision::Fp16, times(FP16, 4.0))] {
            check_convolutions(|| Cuda::new(options(precision)).expect("a CUDA device"), tolerance);
        }
    });
}

fn times(tolerance: Tolerance, factor: f64) -> Tolerance {
    Tolerance { absolute: factor * tolerance.absolute, ..tolerance }
}

/// Networks with batch normalisation, their weights and inputs, the batch size, and how many normalisations remain.
fn whole_networks() -> Vec<(String, Network, Weights, Vec<f32>, usize)> {
    let bytes = fs::read("tests/reference/networks.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    let mut all = Vec::new();
    for (name, network) in resnet::networks() {
        let (weights, images) = resnet::initial(name, &network);
        let images = images[..8 * network.input().len()].to_vec();
        all.push((name.to_string(), network, weights, images, 8));
    }
    for network in networks::networks().into_iter().filter(|network| norms(network) > 0) {
        let (weights, inputs) = (networks::weights(&network, &tensors), networks::inputs(&network, &tensors));
        all.push((network.name.clone(), network, weights, inputs, 4));
    }
    all
}

/// For rounding in up to 60 layers, and small variances that enlarge it.
fn scaled(expected: &[f64]) -> Tolerance {
    let scale = expected.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
    Tolerance { absolute: 5e-5 * scale, relative: 0.0 }
}

/// Units in the last place of the largest logit that a difference may have in any case.
const ULPS: f64 = 16.0;

#[test]
fn the_logits_of_folded_networks_are_pytorchs_in_float64() {
    let bytes = reference();
    let tensors = Tensors::new(&bytes);
    for (name, network, weights, input, batch) in whole_networks() {
        let (folded, found) = network.folded(&weights);
        assert_eq!(norms(&folded), 0, "{name}: {:?}", folded.nodes);
        let expected = doubles(&tensors, &format!("{name}.logits"));
        let scale = expected.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
        let tolerance = scaled(&expected);
        let error = |logits: &[f32]| {
            logits.iter().zip(&expected).fold(0.0_f64, |max, (a, b)| max.max((f64::from(*a) - b).abs())) / scale
        };
        let before = outputs(cpu(), &network, &weights, batch, &input);
        let after = outputs(cpu(), &folded, &found, batch, &input);
        compare(&format!("{name} before"), &before, &expected, tolerance);
        compare(&format!("{name} after"), &after, &expected, tolerance);
        let [before, after] = [before, after].map(|logits| error(&logits));
        let most = (4.0 * before).max(ULPS * f64::from(f32::EPSILON));
        assert!(after <= most, "{name}: {before:e} before, {after:e} after");
    }
}

#[test]
fn a_folded_network_gives_pytorchs_logits_on_cuda() {
    on_cuda(|| check_on_cuda(&["cifar"]));
}

#[test]
#[ignore = "long; CI runs it"]
fn all_folded_networks_give_pytorchs_logits_on_cuda() {
    on_cuda(|| check_on_cuda(&["basic", "bottleneck", "vgg_bn", "googlenet"]));
}

fn check_on_cuda(names: &[&str]) {
    let bytes = reference();
    let tensors = Tensors::new(&bytes);
    for (name, network, weights, input, batch) in whole_networks().into_iter().filter(|it| names.contains(&&*it.0)) {
        let (folded, found) = network.folded(&weights);
        let expected = doubles(&tensors, &format!("{name}.logits"));
        let backend = Cuda::new(Options { graphs: true, ..options(Precision::Fp32) }).expect("a CUDA device");
        let got = outputs(backend, &folded, &found, batch, &input);
        compare(&format!("{name} on CUDA"), &got, &expected, scaled(&expected));
    }
}

fn doubles(tensors: &Tensors, name: &str) -> Vec<f64> {
    tensors.bytes(name).chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
}

fn steps(network: &Network) -> Vec<String> {
    let plan = Plan::new(network, Mode::Inference, 4).expect("a plan");
    plan.forward.iter().map(|step| format!("{}: {}", step.label, step.op.operands().describe())).collect()
}

/// Only the normalisations of the input and of a vector remain, and each convolution ends in a sum where its normalisation
/// did.
#[test]
fn sums_and_activations_are_fused_into_folded_convolutions() {
    let network = normalised(Shape::new(28, 28, 1), 4, Activation::Relu);
    let (folded, _) = network.folded(&network.initial_weights(0));
    let expected = [
        "start forward: batch norm",
        "stem forward: convolution + bias + ReLU",
        "first.conv1 forward: convolution + bias + ReLU",
        "first.conv2 forward: convolution + bias + sum + ReLU",
        "second.conv1 forward: convolution + bias + ReLU",
        "second.conv2 forward: convolution + bias",
        "second.down forward: convolution + bias + sum + ReLU",
        "avgpool.1 forward: average pooling",
        "end forward: batch norm",
        "fc forward: product + bias",
    ];
    assert_eq!(steps(&folded), expected);
}

/// A convolution with the reader that `build` adds to it, before a batch normalisation of `source`.
fn unfolded(build: impl Fn(&mut Builder, NodeId) -> [NodeId; 2]) -> Network {
    let mut net = Builder::new("unfolded", Shape::new(6, 6, 3));
    let conv = net.conv2d("conv", 0, Conv2dOptions { out_channels: 4, ..Default::default() }).expect("it fits");
    let [source, other] = build(&mut net, conv);
    let norm = net.batch_norm2d("bn", source).expect("it fits");
    let sum = net.add(norm, other).expect("it fits");
    net.flatten(sum);
    net.finish().expect("a network")
}

#[test]
fn other_operators_and_shared_convolutions_keep_their_normalisation() {
    let after_relu = unfolded(|net, conv| [net.relu(conv).expect("it fits"), net.relu(conv).expect("it fits")]);
    let shared = unfolded(|_, conv| [conv, conv]);
    for network in [after_relu, shared] {
        let weights = network.initial_weights(0);
        let (folded, found) = network.folded(&weights);
        assert_eq!(steps(&folded), steps(&network));
        assert!(found == weights);
    }
    let mut net = Builder::new("plain", Shape::new(6, 6, 3));
    let conv = net.conv2d("conv", 0, Conv2dOptions::default()).expect("it fits");
    net.flatten(conv);
    let plain = net.finish().expect("a network");
    let weights = plain.initial_weights(0);
    assert!(plain.folded(&weights).1 == weights);
}

/// The variance is 0 in channels that are always the same; ε keeps the quotient finite. Without ε, with a tiny variance, or
/// with numbers that are none, the normalisation stays as it is.
#[test]
fn normalisations_that_would_give_weights_out_of_range_stay() {
    let build = |epsilon| {
        let mut net = Builder::new("edge", Shape::new(6, 6, 3));
        let conv = net.conv2d("conv", 0, Conv2dOptions { out_channels: 2, ..Default::default() }).expect("it fits");
        let options = NormOptions { epsilon, ..NormOptions::default() };
        let norm = net.batch_norm2d_with("bn", conv, options).expect("it fits");
        net.flatten(norm);
        net.finish().expect("a network")
    };
    for (epsilon, variance, expected) in
        [(1e-5, 0.0, 0), (0.0, 0.0, 1), (0.0, 1e-30, 1), (1e-5, f32::NAN, 1), (1e-5, -1.0, 1)]
    {
        let network = build(epsilon);
        let mut weights = network.initial_weights(0);
        weights.statistics.values[3] = variance;
        let (folded, found) = network.folded(&weights);
        assert_eq!(norms(&folded), expected, "{epsilon} {variance}");
        assert_eq!(found.parameters != weights.parameters, expected == 0, "{epsilon} {variance}");
        let input = noise(network.input().len());
        let [before, after] =
            [(&network, &weights), (&folded, &found)].map(|(net, weights)| outputs(cpu(), net, weights, 1, &input));
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        match expected {
            0 => compare("zero", &after, &before.iter().map(|&v| v.into()).collect::<Vec<f64>>(), times(FP16, 1e-2)),
            _ => assert_eq!(bits(&after), bits(&before), "{epsilon} {variance}"),
        }
    }
}

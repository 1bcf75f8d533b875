//! `airnet`: its whitening layer, logits, losses and weights compared with a PyTorch version of airbench's code.

use std::fs;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::Cuda;
use cnn_cuda::data::Dataset;
use cnn_cuda::models::{airnet, find};
use cnn_cuda::network::{FirstLayer, GroupRules, MuonGroups, Network, Weights};
use cnn_cuda::ops::{Backend, Muon, Normalise, Optimizer, Precision, Rule, Sgd};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, Trainer};

use super::harness::{Listener, dataset, hyperparameters, logits};
use super::parity::from_tensors;
use crate::ops::cuda::options;
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::cuda::on_cuda;

// The settings of `tests/reference/airnet.py`.
const SIDE: usize = 28;
const IMAGES: usize = 24;
const CLASSES: usize = 5;
const STEPS: u32 = 5;
const SGD_RATE: f32 = 0.1;

/// The filters have values up to 1 / √ε = 45, and each iteration of Newton and Schulz multiplies rounding errors of small
/// singular values by up to 3.4.
const CLOSE: Tolerance = Tolerance { absolute: 2e-4, relative: 2e-4 };

fn network() -> Network {
    let network = airnet::build(Shape::new(SIDE, SIDE, 3), CLASSES, [8, 12, 10]).expect("a network");
    network.with_first_layer(FirstLayer::Whitening).expect("a convolution")
}

fn images(tensors: &Tensors) -> Dataset {
    let labels = tensors.integers("labels").iter().map(|&label| label as u32).collect();
    let set = dataset(Shape::new(SIDE, SIDE, 3), CLASSES, tensors.bytes("images").to_vec(), labels);
    Dataset { mean: vec![0.5, 0.45, 0.4], std: vec![0.25, 0.2, 0.3], ..set }
}

fn hyper() -> Hyperparameters {
    let sgd = Sgd { momentum: 0.85, nesterov: true };
    let muon = Muon { momentum: 0.6, nesterov: true, iterations: 3, normalises: true, sgd };
    let optimizer = Optimizer { rule: Rule::Muon(muon), weight_decay: 0.02, ..Optimizer::default() };
    Hyperparameters { epochs: STEPS, optimizer, label_smoothing: 0.2, ..hyperparameters(IMAGES, 0.05) }
}

fn check<B: Backend>(backend: impl Fn() -> B) {
    let bytes = fs::read("tests/reference/airnet.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    let expected = |name: &str| -> Vec<f64> { tensors.get(name).0.into_iter().map(f64::from).collect() };
    let value = |name: &str| tensors.get(&format!("weight.{name}")).0;
    let muon = Some(MuonGroups { sgd_rate_scale: SGD_RATE / 0.05, decays: false });
    let (head_rate_scale, bias_rate_scale) = (4.0, 8.0);
    let rules = GroupRules { head_rate_scale, bias_rate_scale, unscaled_decay: true, muon, ..GroupRules::default() };
    let network = network().with_groups(rules).expect("groups");
    let weights = Weights { parameters: from_tensors(&network, value), statistics: network.initial_statistics() };
    let set = images(&tensors);
    let normalise = Normalise { shape: set.shape, mean: set.mean.clone(), std: set.std.clone() };
    let pixel =
        |(index, &byte): (usize, &u8)| (f32::from(byte) / 255.0 - normalise.mean[index % 3]) / normalise.std[index % 3];
    let input: Vec<f32> = set.train.images.iter().enumerate().map(pixel).collect();
    let plan = Plan::new(&network, Mode::Inference, IMAGES).expect("a plan");
    compare("logits", &logits(&mut backend(), &plan, &weights, &input), &expected("logits"), CLOSE);

    let mut trainer = Trainer::new(backend(), network.clone(), set, hyper()).expect("a trainer");
    trainer.set_weights(&weights).expect("weights");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    compare("losses", &listener.losses, &expected("losses"), CLOSE);
    let parameters = trainer.parameters().expect("weights");
    for parameter in &network.parameters {
        let mut last = vec![0.0; parameter.len()];
        parameter.layout.file_from_memory(&parameters[parameter.range()], &mut last);
        if parameter.name.contains("norm") && parameter.name.ends_with("weight") {
            assert!(last.iter().all(|&scale| scale == 1.0), "{} has changed", parameter.name);
        } else {
            compare(&parameter.name, &last, &expected(&format!("final.{}", parameter.name)), CLOSE);
        }
    }
}

#[test]
fn a_narrow_airnet_gives_pytorchs_logits_losses_and_weights() {
    check(|| Cpu::new(Some(2)).expect("two threads"));
}

#[test]
fn a_narrow_airnet_gives_pytorchs_logits_losses_and_weights_on_cuda() {
    on_cuda(|| check(|| Cuda::new(options(Precision::Fp32)).expect("a CUDA device")));
}

#[test]
fn the_first_layer_whitens_the_training_images() {
    let bytes = fs::read("tests/reference/airnet.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    let network = network();
    let hyper = Hyperparameters { optimizer: Optimizer::default(), ..hyper() };
    let backend = Cpu::new(Some(2)).expect("threads");
    let mut trainer = Trainer::new(backend, network.clone(), images(&tensors), hyper).expect("a trainer");
    let (parameters, weight) = (trainer.parameters().expect("weights"), &network.parameters[0]);
    let mut filters = vec![0.0; weight.len()];
    weight.layout.file_from_memory(&parameters[weight.range()], &mut filters);
    let expected: Vec<f64> = tensors.get("whitening").0.into_iter().map(f64::from).collect();
    // Both are computed in float64, so only the rounding to float32 differs.
    compare("filters", &filters, &expected, Tolerance { absolute: 1e-6, relative: 1e-6 });
    assert!(network.is_frozen(0) && !network.is_frozen(1), "the bias alone is trained");
    // The drawn weights of other layers are those without whitening.
    let drawn = network.initial_parameters(0);
    assert_eq!(parameters[weight.range().end..], drawn[weight.range().end..]);
}

/// The images are spread over the set, whose first ones may all be of one class. Streamed images are the same.
#[test]
fn whitening_uses_a_sample_of_any_set() {
    let network = find("airnet").map(|model| (model.build)(model.input, 10)).expect("a model").expect("a network");
    assert_eq!(network.images_to_whiten(3072), 0, "it is not chosen");
    let network = network.with_first_layer(FirstLayer::Whitening).expect("a convolution");
    assert_eq!(network.images_to_whiten(3072), 5000);
    assert_eq!(network.images_to_whiten(usize::MAX), 1);
    let bytes = fs::read("tests/reference/airnet.safetensors").expect("the committed reference");
    let set = images(&Tensors::new(&bytes));
    let mut streamed = set.clone();
    streamed.stream_from_memory().expect("streamed");
    let len = set.shape.len();
    let image = |number: usize| &set.train.images[number * len..][..len];
    for (count, numbers) in [(1, vec![0]), (5, vec![0, 4, 9, 14, 19]), (1000, (0..IMAGES).collect())] {
        let sample = set.train.sample(count, len).expect("images");
        assert!(sample == numbers.into_iter().flat_map(image).copied().collect::<Vec<_>>(), "{count}");
        assert!(streamed.train.sample(count, len).expect("images") == sample, "{count}");
    }
}

/// Filters beyond both signs of all eigenvectors stay as drawn; fewer filters leave out the smallest eigenvalues.
#[test]
fn other_networks_take_as_many_filters_as_they_have() {
    let bytes = fs::read("tests/reference/airnet.safetensors").expect("the committed reference");
    let set = images(&Tensors::new(&bytes));
    let normalise = Normalise { shape: set.shape, mean: set.mean, std: set.std };
    let resnet = find("resnet20").map(|model| (model.build)(set.shape, 10)).expect("a model").expect("a network");
    let resnet = resnet.with_first_layer(FirstLayer::Whitening).expect("a convolution");
    let mut parameters = resnet.initial_parameters(0);
    resnet.whiten(&mut parameters, &set.train.images, &normalise);
    let weight = &resnet.parameters[0];
    let mut filters = vec![0.0; weight.len()];
    weight.layout.file_from_memory(&parameters[weight.range()], &mut filters);
    // Sixteen filters: eight eigenvectors of 27, the last with the largest eigenvalue, and their negatives.
    let norms: Vec<f32> = filters.chunks(27).map(|filter| filter.iter().map(|v| v * v).sum::<f32>()).collect();
    assert!(norms[..8].is_sorted_by(|a, b| a >= b), "{norms:?}");
    assert!(filters[..8 * 27].iter().zip(&filters[8 * 27..]).all(|(a, b)| *a == -b));
    let plain = find("mnist-cnn").map(|model| (model.build)(model.input, 10)).expect("a model").expect("a network");
    let one = Normalise { shape: plain.input(), mean: vec![0.5], std: vec![0.5] };
    let whitened = plain.with_first_layer(FirstLayer::Whitening).expect("a convolution");
    let (drawn, mut parameters) = (whitened.initial_parameters(0), whitened.initial_parameters(0));
    whitened.whiten(&mut parameters, &vec![7; 3 * 784], &one);
    let weight = &whitened.parameters[0];
    assert!(parameters[weight.range()].iter().all(|value| value.is_finite()), "constant images have no variance");
    assert_ne!(parameters[weight.range()], drawn[weight.range()]);
}

//! With the same weights and the same order of data, training gives PyTorch's losses.

use std::fs;
use std::path::Path;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::data::{self, Dataset, LoadOptions};
use cnn_cuda::models::{find, mnist_cnn};
use cnn_cuda::network::{Initial, Network};
use cnn_cuda::ops::{Backend, Optimizer, Rule};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, Trainer};
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::{Listener, dataset, hyperparameters};
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::torch_rng::{TorchGenerator, default_init};
use crate::support::{Need, skip};

/// Even within PyTorch, fp32 sums in another order diverge by up to 1.3e-5 over 50 steps (oneDNN and its native loops).
const LOSSES: Tolerance = Tolerance { absolute: 0.0, relative: 1e-4 };

/// PyTorch's float32 is within 3e-7 of its float64 here; ten times that allows for another order of the sums.
const NARROW_WEIGHTS: Tolerance = Tolerance { absolute: 3e-6, relative: 1e-5 };

fn optimiser(settings: &Value, batch_size: usize) -> Hyperparameters {
    let number = |key: &str| settings[key].as_f64().unwrap_or_else(|| panic!("{key} is missing")) as f32;
    let optimizer = Optimizer {
        rule: Rule::sgd(number("momentum"), settings["nesterov"].as_bool().expect("nesterov")),
        weight_decay: number("weight_decay"),
        ..Optimizer::default()
    };
    Hyperparameters { optimizer, max_steps: Some(50), ..hyperparameters(batch_size, number("lr")) }
}

/// How closely the losses of a run must match.
pub struct Expectation {
    pub tolerance: Tolerance,
    /// The number of steps compared; later ones diverge, because rounding moves the maxima of pooling windows.
    pub steps: usize,
}

/// The committed training run of a narrow network in PyTorch.
pub struct Narrow {
    bytes: Vec<u8>,
    network: Network,
}

impl Narrow {
    pub fn new() -> Self {
        let bytes = fs::read("tests/reference/trajectory_narrow.safetensors").expect("the committed reference");
        let widths = mnist_cnn::Widths { channels: [4, 8, 8, 16], hidden: [32, 16] };
        let network = mnist_cnn::with_widths("narrow", Shape::new(28, 28, 1), 10, &widths).expect("a network");
        Self { bytes, network }
    }

    /// The settings of its optimisers.
    fn optimisers(&self) -> Value {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).expect("a header");
        let description = &header.metadata().as_ref().expect("metadata")["description"];
        let description: Value = serde_json::from_str(description).expect("a description");
        description["optimisers"].clone()
    }

    /// Trains on its images from its weights, on any backend. Returns the trainer and the losses.
    pub fn train<B: Backend>(&self, backend: B, settings: &Value, steps: usize) -> (Trainer<B>, Vec<f32>) {
        let tensors = Tensors::new(&self.bytes);
        let labels: Vec<u32> = tensors.integers("labels").iter().map(|&label| label as u32).collect();
        let hyper = Hyperparameters { max_steps: Some(steps as u64), ..optimiser(settings, 8) };
        let set = dataset(self.network.input(), 10, tensors.bytes("images").to_vec(), labels);
        let mut trainer = Trainer::new(backend, self.network.clone(), set, hyper).expect("a trainer");
        let initial = from_tensors(&self.network, |name| tensors.get(&format!("initial.{name}")).0);
        trainer.set_parameters(&initial).expect("weights");
        let mut listener = Listener::default();
        trainer.run(&mut listener).expect("a run");
        (trainer, listener.losses)
    }
}

/// Trains a narrow network as PyTorch did, on any backend, and compares the losses and final weights.
pub fn check_narrow<B: Backend>(backend: impl Fn() -> B, losses: Expectation, weights: Option<Tolerance>) {
    let narrow = Narrow::new();
    let tensors = Tensors::new(&narrow.bytes);
    for run in ["sgd", "nesterov"] {
        let steps = if weights.is_some() { 50 } else { losses.steps };
        let (mut trainer, got) = narrow.train(backend(), &narrow.optimisers()[run], steps);
        let expected: Vec<f64> = tensors.get(&format!("losses.{run}")).0.into_iter().map(f64::from).collect();
        assert_eq!(expected.len(), 50);
        let steps = ..losses.steps;
        compare(&format!("{run} losses"), &got[steps], &expected[steps], losses.tolerance);
        if let Some(tolerance) = weights {
            let last = from_tensors(&narrow.network, |name| tensors.get(&format!("final.{run}.{name}")).0);
            let last: Vec<f64> = last.into_iter().map(f64::from).collect();
            compare(&format!("{run} weights"), &trainer.parameters().expect("weights"), &last, tolerance);
        }
    }
}

/// Trains `mnist-cnn` on real MNIST from PyTorch's initial weights, on any backend. Returns false if MNIST's files are
/// missing, after reporting the skipped test.
pub fn check_mnist<B: Backend>(backend: impl Fn() -> B, losses: Expectation) -> bool {
    let text = fs::read_to_string("tests/reference/trajectory_mnist.json").expect("the committed reference");
    let reference: Value = serde_json::from_str(&text).expect("JSON");
    for run in ["sgd", "nesterov"] {
        let settings = &reference["optimisers"][run];
        let Some(got) = train_on_mnist(backend(), settings, losses.steps) else { return false };
        let expected = numbers(&settings["losses_float32"]);
        assert_eq!(expected.len(), 50);
        compare(&format!("{run} losses"), &got, &expected[..losses.steps], losses.tolerance);
    }
    true
}

/// The losses of `mnist-cnn` on real MNIST from PyTorch's initial weights; `None` if MNIST's files are missing, after
/// reporting the skipped test.
pub fn train_on_mnist<B: Backend>(backend: B, settings: &Value, steps: usize) -> Option<Vec<f32>> {
    let mnist = mnist()?;
    let model = find("mnist-cnn").expect("the reference network");
    let network = (model.build)(model.input, model.classes).expect("a network");
    let hyper = Hyperparameters { max_steps: Some(steps as u64), ..optimiser(settings, 64) };
    let mut trainer = Trainer::new(backend, network.clone(), mnist, hyper).expect("a trainer");
    trainer.set_parameters(&pytorchs_initial_parameters(&network, 0)).expect("weights");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    Some(listener.losses)
}

pub fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// Real MNIST, truncated to the images that 50 steps read.
fn mnist() -> Option<Dataset> {
    let folder = std::env::var_os("CNN_CUDA_DATA").unwrap_or_else(|| "data".into());
    let options = LoadOptions { folder: Path::new(&folder).to_path_buf(), ..Default::default() };
    match data::load("mnist", &options) {
        Ok(mut set) => {
            for (split, count) in [(&mut set.train, 50 * 64), (&mut set.test, 128)] {
                split.images.truncate(count * set.shape.len());
                split.labels.truncate(count);
            }
            Some(set)
        }
        Err(error) => {
            skip(Need::Mnist, &format!("{error:#}"));
            None
        }
    }
}

/// The parameters that PyTorch's default initialisation gives after `torch.manual_seed(seed)`.
fn pytorchs_initial_parameters(network: &Network, seed: u64) -> Vec<f32> {
    let mut generator = TorchGenerator::manual_seed(seed);
    let mut flat = vec![0.0; network.parameter_count()];
    for pair in network.parameters.chunks(2) {
        let [weight, bias] = pair else { panic!("every layer has a weight and a bias") };
        let Initial::Uniform { fan_in } = weight.initial else { panic!("{} is not uniform", weight.name) };
        let values = default_init(&mut generator, fan_in, weight.len(), bias.len());
        weight.layout.memory_from_file(&values.0, &mut flat[weight.range()]);
        bias.layout.memory_from_file(&values.1, &mut flat[bias.range()]);
    }
    flat
}

/// Converts parameters to memory layout; `values` returns them by name in PyTorch's layout.
pub fn from_tensors(network: &Network, values: impl Fn(&str) -> Vec<f32>) -> Vec<f32> {
    let mut flat = vec![0.0; network.parameter_count()];
    for parameter in &network.parameters {
        parameter.layout.memory_from_file(&values(&parameter.name), &mut flat[parameter.range()]);
    }
    flat
}

#[test]
fn a_narrow_network_gives_pytorchs_losses_and_weights() {
    let losses = Expectation { tolerance: LOSSES, steps: 50 };
    check_narrow(|| Cpu::new(Some(2)).expect("two threads"), losses, Some(NARROW_WEIGHTS));
}

#[test]
fn mnist_cnn_gives_pytorchs_losses_on_mnist() {
    check_mnist(|| Cpu::new(Some(2)).expect("two threads"), Expectation { tolerance: LOSSES, steps: 50 });
}

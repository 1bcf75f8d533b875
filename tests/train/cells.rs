//! A neocognitron: the responses of its cells by Fukushima's formula, its rules of learning, and their determinism.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::Cuda;
use cnn_cuda::data::{Dataset, Split, digits};
use cnn_cuda::models::neocognitron;
use cnn_cuda::network::{Network, Weights};
use cnn_cuda::ops::{Backend, Normalise, Precision, TestViews};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::train::{Evaluator, Learned, Trainer, learn_cells};

use super::harness::{Listener, hyperparameters, logits};
use crate::ops::cuda::options;
use crate::support::cuda::on_cuda;

/// The first images of the built-in digits.
fn few_digits(train: usize, test: usize) -> Dataset {
    let whole = digits::generate();
    let part = |split: &Split, count: usize| Split {
        images: split.images[..count * whole.shape.len()].to_vec(),
        labels: split.labels[..count].to_vec(),
        ..Split::default()
    };
    Dataset { train: part(&whole.train, train), test: part(&whole.test, test), ..whole }
}

fn small(dataset: &Dataset) -> Network {
    neocognitron::build(dataset.shape, dataset.classes.len(), [24, 120]).expect("a network")
}

fn learn<B: Backend>(backend: &mut B, network: &Network, dataset: &Dataset) -> Learned {
    learn_cells(backend, network, dataset, 0, true, || false).expect("no error").expect("not stopped")
}

fn accuracy<B: Backend>(backend: B, network: &Network, weights: &Weights, dataset: &Dataset) -> f64 {
    let normalise = Normalise { shape: dataset.shape, mean: dataset.mean.clone(), std: dataset.std.clone() };
    let test = dataset.test.clone();
    let evaluator = Evaluator::new(backend, network, weights, test, &normalise, 50, TestViews::None);
    evaluator.expect("an evaluator").run(|_, _| {}).expect("finite logits").accuracy()
}

#[test]
fn it_learns_digits_with_the_same_weights_for_any_number_of_threads() {
    let dataset = few_digits(400, 200);
    let network = small(&dataset);
    assert_eq!(network.frozen_len(), network.parameter_count());
    let learned = learn(&mut Cpu::new(Some(1)).expect("a CPU"), &network, &dataset);
    let names: Vec<&str> = learned.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["s2", "s3"]);
    let [features, patterns] = [0, 1].map(|layer| &learned.layers[layer]);
    assert!((5..=24).contains(&features.features) && features.images <= 400, "{features:?}");
    assert!((10..=120).contains(&patterns.features) && patterns.images == 400, "{patterns:?}");
    let again = learn(&mut Cpu::new(Some(2)).expect("a CPU"), &network, &dataset);
    assert!(again.weights.parameters == learned.weights.parameters);
    let accuracy = accuracy(Cpu::new(None).expect("a CPU"), &network, &learned.weights, &dataset);
    assert!(accuracy > 0.8, "{accuracy}");
    let stopped = learn_cells(&mut Cpu::new(None).expect("a CPU"), &network, &dataset, 0, true, || true);
    assert!(stopped.expect("no error").is_none());
}

/// The response of each cell of the second stage is `|x| max(0, cos(x̂, x) − θ)`, computed here in f64 from the response of
/// the stage before.
#[test]
fn cells_respond_by_the_cosine_of_patch_and_feature() {
    let dataset = few_digits(100, 10);
    let network = small(&dataset);
    let mut cpu = Cpu::new(None).expect("a CPU");
    let Learned { weights, layers } = learn(&mut cpu, &network, &dataset);
    let layer = network.cells.iter().find(|layer| layer.name == "s2").expect("a layer");
    let plan = Plan::new(&network.with_outputs(&[layer.input, layer.inhibition, layer.output]), Mode::Inference, 1);
    let input: Vec<f32> = dataset.test.images[..784].iter().map(|&level| f32::from(level) / 127.5 - 1.0).collect();
    let values = logits(&mut cpu, &plan.expect("a plan"), &weights, &input);
    let shape = network.nodes[layer.input].shape;
    let (before, rest) = values.split_at(shape.len());
    let (norms, cells) = rest.split_at(shape.pixels());
    let (capacity, reach) = (network.feature_count(layer), layer.kernel / 2);
    let (mut active, mut far) = (0, 0.0_f64);
    for (at, cells) in cells.chunks_exact(capacity).enumerate() {
        let (top, left) = (at / shape.width, at % shape.width);
        let value = |tap: usize, channel: usize| {
            let (y, x) = (top + tap / layer.kernel, left + tap % layer.kernel);
            let inside = (reach..shape.height + reach).contains(&y) && (reach..shape.width + reach).contains(&x);
            let index = || ((y - reach) * shape.width + x - reach) * shape.channels + channel;
            if inside { f64::from(before[index()]) } else { 0.0 }
        };
        let patch: Vec<f64> = (0..layer.kernel.pow(2) * shape.channels)
            .map(|index| value(index / shape.channels, index % shape.channels))
            .collect();
        let norm = patch.iter().map(|value| value * value).sum::<f64>().sqrt();
        assert!((norm - f64::from(norms[at])).abs() < 1e-4 * (1.0 + norm));
        for (feature, &response) in cells[..layers[0].features].iter().enumerate() {
            let weights = &weights.parameters[network.feature_range(layer, feature)];
            let excitation: Vec<f64> = weights
                .chunks_exact(shape.channels + 1)
                .flat_map(|tap| tap[..shape.channels].iter().map(|&weight| f64::from(weight)))
                .collect();
            let length = excitation.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
            assert!((length - 1.0).abs() < 1e-5, "feature {feature} has length {length}");
            let product: f64 = excitation.iter().zip(&patch).map(|(a, b)| a * b).sum();
            let expected = if norm > 0.0 { norm * (product / norm - f64::from(layer.threshold)).max(0.0) } else { 0.0 };
            far = far.max((expected - f64::from(response)).abs() / (1.0 + norm));
            active += usize::from(expected > 0.0);
        }
        // Cells without a feature stay silent.
        assert!(cells[layers[0].features..].iter().all(|&response| response == 0.0));
    }
    assert!(far < 1e-5 && active > 100, "{far}, {active} active cells");
}

#[test]
fn a_trainer_only_counts_errors_and_changes_nothing() {
    let dataset = few_digits(60, 20);
    let network = small(&dataset);
    let mut cpu = Cpu::new(None).expect("a CPU");
    let Learned { weights, .. } = learn(&mut cpu, &network, &dataset);
    let mut trainer = Trainer::new(cpu, network, dataset, hyperparameters(25, 0.1)).expect("a trainer");
    trainer.set_weights(&weights).expect("they fit");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    assert_eq!((listener.steps, listener.epochs.len(), listener.epochs[0].train.samples), (3, 1, 60));
    assert!(listener.epochs[0].train.accuracy() > 0.9, "{:?}", listener.epochs[0].train);
    assert!(trainer.parameters().expect("read") == weights.parameters);
}

/// The features are patches of the images, so they are close on all devices if the same patches are chosen.
#[test]
#[ignore = "long; CI runs it"]
fn cuda_learns_what_the_cpu_learns() {
    let dataset = few_digits(8, 4);
    let network = neocognitron::build(dataset.shape, dataset.classes.len(), [8, 20]).expect("a network");
    let expected = learn(&mut Cpu::new(None).expect("a CPU"), &network, &dataset);
    on_cuda(|| {
        let mut cuda = Cuda::new(options(Precision::Fp32)).expect("a CUDA device");
        let found = learn(&mut cuda, &network, &dataset);
        assert_eq!(found.layers, expected.layers);
        let pairs = found.weights.parameters.iter().zip(&expected.weights.parameters);
        let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-3, "{far}");
        let accuracies = [
            accuracy(cuda, &network, &found.weights, &dataset),
            accuracy(Cpu::new(None).expect("a CPU"), &network, &found.weights, &dataset),
        ];
        assert!((accuracies[0] - accuracies[1]).abs() < 1e-9, "{accuracies:?}");
    });
}

//! Gradient accumulation: agreement with PyTorch and with a larger batch, and what a step of several micro-batches does.

use std::fs;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Augmentation, Backend, LossScale, Optimizer, Precision, Rule, TrainingState};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, LearningRate, Outcome, Trainer};
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::{Listener, bits, dataset, digits, hyperparameters, two_epochs};
use super::parity::from_tensors;
use crate::ops::cuda::options;
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::cuda::on_cuda;

/// The network of `tests/reference/accumulation.py`, with dropout before its last layer.
fn network(has_norm: bool, dropout: f32) -> Network {
    let mut net = Builder::new("small", Shape::new(28, 28, 1));
    let half =
        Conv2dOptions { out_channels: 4, kernel: 3, stride: 2, padding: 1, bias: !has_norm, ..Default::default() };
    let mut build = || {
        let mut x = net.conv2d("conv", 0, half)?;
        if has_norm {
            x = net.batch_norm2d("norm", x)?;
        }
        x = net.relu(x)?;
        x = net.max_pool2d(x, Window { kernel: 2, stride: 2, padding: 0 })?;
        x = net.flatten(x);
        if dropout > 0.0 {
            x = net.dropout(x, dropout)?;
        }
        net.linear("fc", x, 10)
    };
    build().expect("it fits");
    net.finish().expect("a network")
}

fn cpu() -> Cpu {
    Cpu::new(Some(2)).expect("two threads")
}

fn cuda(precision: Precision) -> Cuda {
    Cuda::new(Options { graphs: true, ..options(precision) }).expect("a CUDA device")
}

/// Trains as PyTorch did, and compares losses, weights and running statistics.
fn check_pytorch<B: Backend>(backend: impl Fn() -> B, tolerance: Tolerance) {
    let bytes = fs::read("tests/reference/accumulation.safetensors").expect("the committed reference");
    let narrow = fs::read("tests/reference/trajectory_narrow.safetensors").expect("the committed reference");
    let (tensors, narrow) = (Tensors::new(&bytes), Tensors::new(&narrow));
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let description = &header.metadata().as_ref().expect("metadata")["description"];
    let settings: Value = serde_json::from_str(description).expect("a description");
    let (number, whole) = (
        |key: &str| settings[key].as_f64().expect(key) as f32,
        |key: &str| settings[key].as_u64().expect(key) as usize,
    );
    let images = narrow.bytes("images")[..whole("images") * 28 * 28].to_vec();
    let labels: Vec<u32> = narrow.integers("labels")[..whole("images")].iter().map(|&label| label as u32).collect();
    for run in ["plain", "clip", "norm"] {
        let network = network(run == "norm", 0.0);
        let optimizer = Optimizer {
            rule: Rule::sgd(number("momentum"), true),
            weight_decay: number("weight_decay"),
            clip_norm: settings["clip"][run].as_f64().map(|norm| norm as f32),
            ..Optimizer::default()
        };
        let hyper = Hyperparameters {
            epochs: 100,
            grad_accum_steps: Some(whole("accumulated")),
            max_steps: Some(settings["steps"].as_u64().expect("steps")),
            optimizer,
            ..hyperparameters(whole("batch"), number("lr"))
        };
        let set = dataset(network.input(), 10, images.clone(), labels.clone());
        let mut trainer = Trainer::new(backend(), network.clone(), set, hyper).expect("a trainer");
        assert_eq!(trainer.steps_per_epoch(), 3);
        let values = |when: &str, name: &str| tensors.get(&format!("{run}.{when}.{name}")).0;
        trainer.set_parameters(&from_tensors(&network, |name| values("initial", name))).expect("weights");
        let mut listener = Listener::default();
        assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
        let losses = wide(tensors.get(&format!("{run}.losses")).0);
        compare(&format!("{run}: losses"), &listener.losses, &losses, tolerance);
        let last = wide(from_tensors(&network, |name| values("final", name)));
        compare(&format!("{run}: weights"), &trainer.parameters().expect("weights"), &last, tolerance);
        if run == "norm" {
            let statistics = trainer.statistics().expect("statistics");
            let running = wide([values("final", "norm.running_mean"), values("final", "norm.running_var")].concat());
            compare("running statistics", &statistics.values, &running, tolerance);
            assert_eq!(statistics.batches_tracked, tensors.integers("norm.final.norm.num_batches_tracked"));
        }
    }
}

/// Rounding of fp32 over twenty steps.
const CLOSE: Tolerance = Tolerance { absolute: 3e-6, relative: 1e-5 };

#[test]
fn accumulated_steps_match_pytorch() {
    check_pytorch(cpu, CLOSE);
}

#[test]
#[ignore = "long; CI runs it"]
fn accumulated_steps_on_cuda_match_pytorch() {
    on_cuda(|| check_pytorch(|| cuda(Precision::Fp32), CLOSE));
    // Rounding to 11 bits changes an activation by up to a thousandth.
    on_cuda(|| check_pytorch(|| cuda(Precision::Fp16), Tolerance { absolute: 0.02, relative: 0.02 }));
}

fn run<B: Backend>(backend: B, network: Network, hyper: Hyperparameters) -> (Trainer<B>, Listener) {
    let mut trainer = Trainer::new(backend, network, digits(62, 20), hyper).expect("a trainer");
    let mut listener = Listener::default();
    assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
    (trainer, listener)
}

#[test]
fn an_accumulated_step_is_one_of_a_larger_batch() {
    let large = Hyperparameters { batch_size: 24, ..two_epochs() };
    let small = Hyperparameters { batch_size: 8, grad_accum_steps: Some(3), ..two_epochs() };
    let [(mut large, of_large), (mut small, of_small)] =
        [large, small].map(|hyper| run(cpu(), network(false, 0.0), hyper));
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    assert_eq!((of_small.losses.len(), of_small.steps), (6, 6));
    compare("losses", &of_small.losses, &wide(&of_large.losses), CLOSE);
    let weights = wide(&large.parameters().expect("weights"));
    compare("weights", &small.parameters().expect("weights"), &weights, CLOSE);
    for (small, large) in of_small.epochs.iter().zip(&of_large.epochs) {
        assert_eq!((small.total_steps, small.train.samples), (large.total_steps, 62));
        assert!((small.train.loss() - large.train.loss()).abs() < 1e-5);
    }
    // A step of the whole epoch, if there are not enough batches for more.
    let (_, all) = run(cpu(), network(false, 0.0), Hyperparameters { grad_accum_steps: Some(1000), ..two_epochs() });
    assert_eq!(all.steps, 2);
}

/// Everything that depends on the step: dropout, statistics, augmentation, an average and clipping.
fn eventful() -> Hyperparameters {
    let averaged = Optimizer { average_decay: Some(0.9), average_warm_up: true, ..two_epochs().optimizer };
    Hyperparameters {
        batch_size: 8,
        grad_accum_steps: Some(3),
        optimizer: Optimizer { clip_norm: Some(0.5), ..averaged },
        augmentation: Augmentation { crop_padding: 2, ..Augmentation::default() },
        ..two_epochs()
    }
}

/// A run that is interrupted between two steps ends bit-identical, also with streamed images.
fn check_interruption<B: Backend>(backend: impl Fn() -> B, stops: &[u64]) {
    let (mut whole, all) = run(backend(), network(true, 0.25), eventful());
    let end = whole.state().expect("a state");
    assert_eq!(end.statistics.batches_tracked, [16]);
    for &stop in stops {
        let new = |is_streamed: bool| {
            let mut set = digits(62, 20);
            if is_streamed {
                set.stream_from_memory().expect("streamed");
            }
            Trainer::new(backend(), network(true, 0.25), set, eventful()).expect("a trainer")
        };
        let (mut first, mut before) = (new(false), Listener { stop_after: Some(stop), ..Listener::default() });
        assert_eq!(first.run(&mut before).expect("a run"), Outcome::Interrupted);
        let (mut second, mut after) = (new(true), Listener::default());
        let state = first.state().expect("a state");
        assert_eq!((state.position.total_steps, state.metrics.steps), (stop, state.position.step_in_epoch));
        second.restore(&state).expect("restored");
        second.run(&mut after).expect("a run");
        let state = second.state().expect("a state");
        assert_eq!(bits(&state.parameters), bits(&end.parameters), "stopped after {stop}");
        assert_eq!(bits(&state.average), bits(&end.average), "stopped after {stop}");
        assert_eq!(state.statistics, end.statistics);
        assert_eq!(bits(&[before.losses, after.losses].concat()), bits(&all.losses), "stopped after {stop}");
        assert_eq!(after.epochs.last().map(|it| it.train), all.epochs.last().map(|it| it.train));
    }
}

#[test]
fn accumulated_runs_resume_bit_identical() {
    check_interruption(cpu, &[0, 1, 2, 3, 5]);
}

#[test]
fn accumulated_runs_on_cuda_resume_bit_identical() {
    on_cuda(|| check_interruption(|| cuda(Precision::Fp32), &[2]));
    on_cuda(|| check_interruption(|| cuda(Precision::Fp16), &[4]));
}

#[test]
fn every_micro_batch_has_dropouts_of_its_own() {
    // Two equal images, and weights that do not change.
    let network = || network(false, 0.5);
    let image: Vec<u8> = (0..28 * 28).map(|pixel| (pixel * 7 % 256) as u8).collect();
    let losses = |grad_accum_steps| {
        let hyper = Hyperparameters { grad_accum_steps, ..hyperparameters(1, 1e-30) };
        let set = dataset(network().input(), 10, [image.clone(), image.clone()].concat(), vec![3, 3]);
        let mut listener = Listener::default();
        Trainer::new(cpu(), network(), set, hyper).expect("a trainer").run(&mut listener).expect("a run");
        listener.losses
    };
    let (alone, together) = (losses(None), losses(Some(2)));
    assert_eq!((alone.len(), together.len()), (2, 1));
    assert_ne!(alone[0], alone[1]);
    assert!((together[0] - (alone[0] + alone[1]) / 2.0).abs() < 1e-6, "{alone:?} {together:?}");
}

#[test]
fn a_loss_that_is_not_finite_is_reported_with_its_step() {
    let hyper = Hyperparameters {
        learning_rate: LearningRate::constant(1e38),
        grad_accum_steps: Some(3),
        batch_size: 8,
        ..two_epochs()
    };
    let mut trainer = Trainer::new(cpu(), network(false, 0.0), digits(62, 20), hyper).expect("a trainer");
    let error = format!("{:#}", trainer.run(&mut Listener::default()).expect_err("the loss is not finite"));
    assert!(error.contains("at step 1 (counted from 0; in epoch 1)"), "{error}");
}

/// With a scale that overflows in every micro-batch, the step is skipped once, and the next has half the scale.
#[test]
fn an_overflow_skips_the_whole_step() {
    on_cuda(|| {
        let hyper = Hyperparameters { max_steps: Some(1), ..eventful() };
        let mut trainer =
            Trainer::new(cuda(Precision::Fp16), network(true, 0.25), digits(62, 20), hyper).expect("a trainer");
        let scale = LossScale { scale: 2.0_f32.powi(60), good_steps: 5, skipped_steps: 0 };
        trainer.backend.set_loss_scale(scale).expect("a scale");
        let before = trainer.parameters().expect("weights");
        trainer.run(&mut Listener::default()).expect("a run");
        assert_eq!(bits(&trainer.parameters().expect("weights")), bits(&before));
        assert_eq!(trainer.backend.update_count().expect("a count"), 0);
        let after = LossScale { scale: 2.0_f32.powi(59), good_steps: 0, skipped_steps: 1 };
        assert_eq!(trainer.backend.loss_scale().expect("a scale"), Some(after));
    });
}

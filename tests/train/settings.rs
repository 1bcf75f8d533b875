//! Settings take effect whenever they are changed, and a new trainer is as if nothing had been compiled or measured for it.

use std::collections::BTreeMap;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Algorithm, Augmentation, Backend, LossScale, Metrics, Precision, Region, Sgd, Span};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, Position, TrainState, Trainer};

use super::harness::{Listener, bits, digits, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::{on_cuda, on_cuda_with};

/// Quick on the emulator, with statistics, a dropout and a hidden layer.
fn network() -> Network {
    let mut net = Builder::new("small", Shape::new(28, 28, 1));
    let strided = Conv2dOptions { out_channels: 4, kernel: 3, stride: 2, ..Default::default() };
    let conv = net.conv2d("conv", 0, strided).expect("conv");
    let normalised = net.batch_norm2d("bn", conv).expect("bn");
    let relu = net.relu(normalised).expect("relu");
    let pool = net.max_pool2d(relu, Window { kernel: 2, stride: 2, padding: 0 }).expect("pool");
    let flat = net.flatten(pool);
    let dropped = net.dropout(flat, 0.25).expect("dropout");
    let hidden = net.linear("fc1", dropped, 16).expect("fc1");
    let hidden = net.relu(hidden).expect("relu");
    net.linear("fc2", hidden, 10).expect("fc2");
    net.finish().expect("a network")
}

fn hyper(steps: u64) -> Hyperparameters {
    let sgd = Sgd { clip_norm: Some(0.5), average_decay: Some(0.9), ..two_epochs().sgd };
    let augmentation = Augmentation { crop_padding: 2, ..Augmentation::default() };
    Hyperparameters { sgd, augmentation, label_smoothing: 0.1, batch_size: 4, max_steps: Some(steps), ..two_epochs() }
}

/// Epochs of eight steps, the last of them on a partial batch.
fn trainer<B: Backend>(backend: B, hyper: Hyperparameters) -> Trainer<B> {
    Trainer::new(backend, network(), digits(30, 8), hyper).expect("a trainer")
}

type Change = fn(&mut Hyperparameters);

/// What may be changed.
const CHANGES: [(&str, Change); 8] = [
    ("momentum", |hyper| hyper.sgd.momentum = 0.5),
    ("nesterov", |hyper| hyper.sgd.nesterov = false),
    ("weight decay", |hyper| hyper.sgd.weight_decay = 0.05),
    ("clip norm", |hyper| hyper.sgd.clip_norm = Some(0.0625)),
    ("no clipping", |hyper| hyper.sgd.clip_norm = None),
    ("average", |hyper| hyper.sgd.average_decay = Some(0.5)),
    ("label smoothing", |hyper| hyper.label_smoothing = 0.3),
    ("augmentation", |hyper| hyper.augmentation.flip = true),
];

const BEFORE: u64 = 3;

/// Goes on to the end; what is left, with the losses of these steps.
fn finished<B: Backend>(trainer: &mut Trainer<B>) -> (TrainState, Vec<u32>) {
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    let state = trainer.state().expect("a state");
    (TrainState { epoch_seconds: 0.0, ..state }, bits(&listener.losses))
}

/// Changes a setting after some steps, the last ones of which were replayed where a backend captures them.
fn check_changes<B: Backend>(backend: impl Fn() -> B) {
    let mut first = trainer(backend(), hyper(BEFORE));
    first.run(&mut Listener::default()).expect("a run");
    let begun = first.state().expect("a state");
    // Over the end of the epoch: the partial batch is a program of its own.
    let end = BEFORE + 6;
    let mut unchanged = trainer(backend(), hyper(end));
    unchanged.restore(&begun).expect("restored");
    let unchanged = finished(&mut unchanged);
    for (what, change) in CHANGES {
        let mut going = trainer(backend(), hyper(BEFORE));
        going.run(&mut Listener::default()).expect("a run");
        let mut settings = hyper(end);
        change(&mut settings);
        going.set_hyper(settings).expect("settings");
        let mut fresh = trainer(backend(), settings);
        fresh.restore(&begun).expect("restored");
        let (found, expected) = (finished(&mut going), finished(&mut fresh));
        assert!(expected.0 != unchanged.0, "{what} changes nothing: the test is blunt");
        assert!(found == expected, "{what} is not what the steps after the change were run with");
    }
}

#[test]
fn settings_that_memory_was_planned_for_do_not_change() {
    let mut trainer = trainer(Cpu::new(Some(1)).expect("a thread"), hyper(1));
    let changes: [Change; 4] = [
        |hyper| hyper.batch_size = 2,
        |hyper| hyper.eval_batch_size = 2,
        |hyper| hyper.sgd.momentum = 0.0,
        |hyper| hyper.sgd.average_decay = None,
    ];
    for change in changes {
        let mut settings = hyper(1);
        change(&mut settings);
        assert!(trainer.set_hyper(settings).is_err(), "{settings:?}");
    }
}

#[test]
fn batches_without_images_are_refused() {
    let set = || digits(30, 8);
    for hyper in [
        Hyperparameters::default(),
        Hyperparameters { batch_size: 0, ..hyper(1) },
        Hyperparameters { eval_batch_size: 0, ..hyper(1) },
    ] {
        assert!(Trainer::new(Cpu::new(Some(1)).expect("a thread"), network(), set(), hyper).is_err(), "{hyper:?}");
    }
}

#[test]
fn settings_that_change_take_effect() {
    check_changes(|| Cpu::new(Some(2)).expect("two threads"));
}

#[test]
fn settings_that_change_take_effect_on_cuda() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16] {
            check_changes(|| Cuda::new(Options { graphs: true, ..options(precision) }).expect("a CUDA device"));
        }
    });
}

/// A trainer that is as new: the state is what the seed gives.
fn check_new<B: Backend>(trainer: &mut Trainer<B>, loss_scale: Option<LossScale>) {
    let (state, initial) = (trainer.state().expect("a state"), network().initial_weights(trainer.hyper().seed));
    assert_eq!(bits(&state.parameters), bits(&initial.parameters));
    assert_eq!(bits(&state.average), bits(&initial.parameters));
    assert_eq!(bits(&state.statistics.values), bits(&initial.statistics.values));
    assert_eq!(state.statistics.batches_tracked, initial.statistics.batches_tracked);
    assert!(state.momentum.iter().all(|momentum| momentum.to_bits() == 0));
    assert_eq!(
        (state.position, state.metrics, state.loss_scale),
        (Position::default(), Metrics::default(), loss_scale)
    );
    assert_eq!(trainer.backend.read_metrics().expect("metrics"), Metrics::default());
}

/// The gradients of the first step, and what it leaves.
fn first_step<B: Backend>(trainer: &mut Trainer<B>) -> (Vec<u32>, TrainState, Vec<u32>) {
    let (state, losses) = finished(trainer);
    let gradients = Span::new(Region::Gradients, 0, state.parameters.len());
    (bits(&trainer.backend.read(gradients).expect("read")), state, losses)
}

#[test]
fn a_new_trainer_is_as_the_seed_has_it() {
    check_new(&mut trainer(Cpu::new(Some(2)).expect("two threads"), hyper(1)), None);
}

#[test]
fn measuring_algorithms_leaves_nothing_behind() {
    // Nothing was measured before.
    let cache = tempfile::tempdir().expect("a folder");
    on_cuda_with(&[("XDG_CACHE_HOME", cache.path().to_str().expect("plain"))], || {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let loss_scale = (precision == Precision::Fp16).then(LossScale::default);
            let new = |recorded: BTreeMap<String, Algorithm>| {
                let options = Options { graphs: true, algorithm: None, recorded, ..options(precision) };
                let mut trainer = trainer(Cuda::new(options).expect("a CUDA device"), hyper(1));
                check_new(&mut trainer, loss_scale);
                trainer
            };
            let mut measured = new(BTreeMap::new());
            let choices = measured.backend.choices();
            assert!(choices.iter().any(|choice| choice.microseconds.len() > 1), "nothing was measured: {choices:?}");
            let mut remembered = new(BTreeMap::new());
            // All is given: nothing is measured, whatever is known of it.
            let mut given = new(choices.iter().map(|choice| (choice.site.clone(), choice.algorithm)).collect());
            let expected = first_step(&mut given);
            assert!(expected.0.iter().any(|&gradient| gradient != 0), "{precision}: there is no gradient");
            assert!(first_step(&mut measured) == expected, "{precision}: measuring left its traces");
            assert!(first_step(&mut remembered) == expected, "{precision}");
        }
    });
}

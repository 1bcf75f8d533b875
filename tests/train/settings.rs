//! Changed settings take effect, and compiling or tuning leaves no trace in the state of a new trainer.

use std::collections::BTreeMap;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Adam, Augmentation, Backend, Flip, LossScale, Metrics, Optimizer, Precision, Region, Rule, Span};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, Position, TrainState, Trainer};

use super::harness::{Listener, bits, digits, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::{on_cuda, on_cuda_with};

/// A network that is fast on the emulator, with batch normalisation, dropout and a hidden layer.
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
    let optimizer = Optimizer { clip_norm: Some(0.5), average_decay: Some(0.9), ..two_epochs().optimizer };
    let augmentation = Augmentation { crop_padding: 2, ..Augmentation::default() };
    Hyperparameters {
        optimizer,
        augmentation,
        label_smoothing: 0.1,
        batch_size: 4,
        max_steps: Some(steps),
        ..two_epochs()
    }
}

/// A trainer whose epochs have eight steps, the last on a partial batch.
fn trainer<B: Backend>(backend: B, hyper: Hyperparameters) -> Trainer<B> {
    Trainer::new(backend, network(), digits(30, 8), hyper).expect("a trainer")
}

type Change = fn(&mut Hyperparameters);

/// The settings that may change between steps.
const CHANGES: [(&str, Change); 8] = [
    ("momentum", |hyper| hyper.optimizer.rule = Rule::sgd(0.5, true)),
    ("nesterov", |hyper| hyper.optimizer.rule = Rule::sgd(0.9, false)),
    ("weight decay", |hyper| hyper.optimizer.weight_decay = 0.05),
    ("clip norm", |hyper| hyper.optimizer.clip_norm = Some(0.0625)),
    ("no clipping", |hyper| hyper.optimizer.clip_norm = None),
    ("average", |hyper| hyper.optimizer.average_decay = Some(0.5)),
    ("label smoothing", |hyper| hyper.label_smoothing = 0.3),
    ("augmentation", |hyper| hyper.augmentation.flip = Flip::Alternating),
];

const STEPS_BEFORE_CHANGE: u64 = 3;

/// Runs to the end. Returns the final state and the losses of the steps that ran.
fn finish<B: Backend>(trainer: &mut Trainer<B>) -> (TrainState, Vec<u32>) {
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    let state = trainer.state().expect("a state");
    (TrainState { epoch_seconds: 0.0, ..state }, bits(&listener.losses))
}

/// Changes each setting after a few steps, when a backend that captures graphs already replays them.
fn check_changes<B: Backend>(backend: impl Fn() -> B) {
    let mut first = trainer(backend(), hyper(STEPS_BEFORE_CHANGE));
    first.run(&mut Listener::default()).expect("a run");
    let begun = first.state().expect("a state");
    // Includes the end of the epoch, because the partial batch has its own program.
    let end = STEPS_BEFORE_CHANGE + 6;
    let mut unchanged = trainer(backend(), hyper(end));
    unchanged.restore(&begun).expect("restored");
    let unchanged = finish(&mut unchanged);
    for (what, change) in CHANGES {
        let mut changed = trainer(backend(), hyper(STEPS_BEFORE_CHANGE));
        changed.run(&mut Listener::default()).expect("a run");
        let mut settings = hyper(end);
        change(&mut settings);
        changed.set_hyper(settings).expect("settings");
        let mut fresh = trainer(backend(), settings);
        fresh.restore(&begun).expect("restored");
        let (found, expected) = (finish(&mut changed), finish(&mut fresh));
        assert!(expected.0 != unchanged.0, "{what} has no effect, so the test checks nothing");
        assert!(found == expected, "the steps after the change did not use the new {what}");
    }
}

#[test]
fn settings_that_determine_memory_cannot_change() {
    let mut trainer = trainer(Cpu::new(Some(1)).expect("a thread"), hyper(1));
    let changes: [Change; 6] = [
        |hyper| hyper.batch_size = 2,
        |hyper| hyper.grad_accum_steps = Some(2),
        |hyper| hyper.eval_batch_size = 2,
        |hyper| hyper.optimizer.rule = Rule::default(),
        |hyper| hyper.optimizer.rule = Rule::Adam(Adam::default()),
        |hyper| hyper.optimizer.average_decay = None,
    ];
    for change in changes {
        let mut settings = hyper(1);
        change(&mut settings);
        assert!(trainer.set_hyper(settings).is_err(), "{settings:?}");
    }
}

#[test]
fn batch_sizes_of_zero_are_refused() {
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
fn changed_settings_take_effect() {
    check_changes(|| Cpu::new(Some(2)).expect("two threads"));
}

#[test]
#[ignore = "long; CI runs it"]
fn changed_settings_take_effect_on_cuda() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
            check_changes(|| Cuda::new(Options { graphs: true, ..options(precision) }).expect("a CUDA device"));
        }
    });
}

/// Asserts that the state of a trainer is the initial one of its seed.
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

/// Runs the first step. Returns its gradients, the state after it, and its loss.
fn first_step<B: Backend>(trainer: &mut Trainer<B>) -> (Vec<u32>, TrainState, Vec<u32>) {
    let (state, losses) = finish(trainer);
    let gradients = Span::new(Region::Gradients, 0, state.parameters.len());
    (bits(&trainer.backend.read(gradients).expect("read")), state, losses)
}

#[test]
fn a_new_trainer_has_the_initial_state_of_its_seed() {
    check_new(&mut trainer(Cpu::new(Some(2)).expect("two threads"), hyper(1)), None);
}

#[test]
#[ignore = "long; CI runs it"]
fn tuning_leaves_no_trace_in_the_training_state() {
    // An empty tuning cache.
    let cache = tempfile::tempdir().expect("a folder");
    on_cuda_with(&[("XDG_CACHE_HOME", cache.path().to_str().expect("a UTF-8 path"))], || {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
            let loss_scale = (precision == Precision::Fp16).then(LossScale::default);
            let new = |recorded: BTreeMap<String, String>| {
                let options = Options { graphs: true, algorithm: None, recorded, ..options(precision) };
                let mut trainer = trainer(Cuda::new(options).expect("a CUDA device"), hyper(1));
                check_new(&mut trainer, loss_scale);
                trainer
            };
            let mut measured = new(BTreeMap::new());
            let choices = measured.backend.choices();
            assert!(choices.iter().any(|choice| choice.microseconds.len() > 1), "nothing was measured: {choices:?}");
            let mut cached = new(BTreeMap::new());
            // With all choices given, nothing is measured and the cache is not used.
            let mut given =
                new(choices.iter().map(|choice| (choice.site.clone(), choice.candidate.to_string())).collect());
            let expected = first_step(&mut given);
            assert!(expected.0.iter().any(|&gradient| gradient != 0), "{precision}: there is no gradient");
            assert!(first_step(&mut measured) == expected, "{precision}: tuning changes the results");
            assert!(first_step(&mut cached) == expected, "{precision}: cached choices change the results");
        }
    });
}

//! Runs with augmentation, gradient clipping, weight averaging and frozen filters: interruption and evaluation on any
//! backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::data::Streamed;
use cnn_cuda::images::{HostImages, ImageSource};
use cnn_cuda::network::{FirstLayer, Network};
use cnn_cuda::ops::{Augmentation, Backend, Flip, Optimizer, PaddingMode, Region, Span};
use cnn_cuda::train::{Hyperparameters, Outcome, Trainer};

use super::harness::{Listener, bits, digits, lenet5, two_epochs};

fn network() -> Network {
    lenet5().with_first_layer(FirstLayer::GaborFrozen).expect("the first layer is a convolution")
}

fn hyper(steps: Option<u64>) -> Hyperparameters {
    let averaged = Optimizer { average_decay: Some(0.3), average_warm_up: true, ..two_epochs().optimizer };
    let optimizer = Optimizer { clip_norm: Some(0.125), ..averaged };
    let augmentation = Augmentation {
        crop_padding: 2,
        padding_mode: PaddingMode::Reflect,
        flip: Flip::Alternating,
        cutout: 6,
        brightness: 0.25,
        contrast: 0.25,
    };
    Hyperparameters { optimizer, augmentation, max_steps: steps, ..two_epochs() }
}

fn trainer<B: Backend>(backend: B) -> Trainer<B> {
    Trainer::new(backend, network(), digits(90, 32), hyper(None)).expect("a trainer")
}

/// The same trainer with streamed images.
fn streamed<B: Backend>(backend: B) -> Trainer<B> {
    let mut set = digits(90, 32);
    set.stream_from_memory().expect("streamed");
    Trainer::new(backend, network(), set, hyper(None)).expect("a trainer")
}

/// A run of six steps that is interrupted and resumed on streamed images is bit-identical to an uninterrupted one, and
/// evaluation uses the averaged weights.
pub fn check_interruption<B: Backend>(backend: impl Fn() -> B, stops: &[u64]) {
    let (mut whole, mut listener) = (trainer(backend()), Listener::default());
    assert_eq!(whole.run(&mut listener).expect("a run"), Outcome::Finished);
    let end = whole.state().expect("a state");
    assert!(end.average != end.parameters && end.model() == end.average);
    let first = network().initial_parameters(0);
    let frozen = network().frozen_len();
    assert_eq!(bits(&end.parameters[..frozen]), bits(&first[..frozen]), "frozen filters moved");
    assert_eq!(bits(&end.average[..frozen]), bits(&first[..frozen]), "the average of frozen filters moved");
    assert!(end.parameters[frozen..] != first[frozen..]);
    for &stop in stops {
        let (mut one, mut before) = (trainer(backend()), Listener { stop_after: Some(stop), ..Listener::default() });
        assert_eq!(one.run(&mut before).expect("a run"), Outcome::Interrupted);
        let mut other = streamed(backend());
        other.restore(&one.state().expect("a state")).expect("restored");
        let mut after = Listener::default();
        other.run(&mut after).expect("a run");
        let state = other.state().expect("a state");
        assert_eq!(bits(&state.parameters), bits(&end.parameters), "stopped after {stop}");
        assert_eq!(bits(&state.average), bits(&end.average), "the average, stopped after {stop}");
        assert_eq!(after.epochs.last().expect("an epoch").test, listener.epochs.last().expect("an epoch").test);
    }
    let mut plain = Trainer::new(
        backend(),
        network(),
        digits(90, 32),
        Hyperparameters { optimizer: two_epochs().optimizer, ..hyper(None) },
    )
    .expect("a trainer");
    plain.set_parameters(&end.average).expect("written");
    assert_eq!(plain.evaluate().expect("metrics"), listener.epochs.last().expect("an epoch").test);
}

#[test]
fn clipped_and_averaged_runs_resume_bit_identical() {
    check_interruption(|| Cpu::new(Some(2)).expect("threads"), &[0, 1, 4]);
}

#[test]
fn the_average_starts_at_the_weights_of_the_first_step_and_gradients_are_clipped() {
    let mut trainer = trainer(Cpu::new(Some(1)).expect("a thread"));
    trainer.set_hyper(Hyperparameters { max_steps: Some(1), ..*trainer.hyper() }).expect("settings");
    trainer.run(&mut Listener::default()).expect("a run");
    let state = trainer.state().expect("a state");
    assert_eq!(bits(&state.average), bits(&state.parameters));
    // After one step, the momentum is the clipped gradient plus weight decay. Frozen weights have no gradient.
    let (frozen, count) = (network().frozen_len(), state.parameters.len());
    let gradients = trainer.backend.read(Span::new(Region::Gradients, 0, count)).expect("read");
    assert!(gradients[..frozen].iter().all(|&gradient| gradient == 0.0));
    let norm = gradients.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 0.2, "a norm of {norm} is not clipped, so the test checks nothing");
    let first = network().initial_parameters(0);
    let clipped: f64 =
        state.momentum.iter().zip(&first).map(|(b, w)| f64::from(b - 5e-4 * w).powi(2)).skip(frozen).sum();
    assert!((clipped.sqrt() - 0.125).abs() < 1e-4, "{}", clipped.sqrt());
}

/// Fails when reading images of the second epoch.
struct Vanishing(HostImages, AtomicUsize);

impl ImageSource for Vanishing {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        ensure!(self.1.fetch_add(numbers.len(), Ordering::SeqCst) < 120, "picture 7 is gone");
        self.0.read(numbers, bytes)
    }
}

#[test]
fn an_unreadable_picture_ends_the_run_with_its_error_after_the_finished_epochs() {
    let mut set = digits(90, 32);
    let held = HostImages { images: std::mem::take(&mut set.train.images), image_len: set.shape.len() };
    let source = Arc::new(Vanishing(held, AtomicUsize::new(0)));
    set.train.streamed = Some(Streamed { source, hashes: Arc::default() });
    let mut trainer =
        Trainer::new(Cpu::new(Some(1)).expect("a thread"), network(), set, hyper(None)).expect("a trainer");
    let mut listener = Listener::default();
    let message = format!("{:#}", trainer.run(&mut listener).expect_err("the picture is missing"));
    assert!(message.contains("picture 7 is gone"), "{message}");
    assert_eq!((listener.epochs.len(), trainer.position().epoch), (1, 1));
}

#[test]
fn a_run_without_an_average_refuses_a_state_with_one() {
    let state = trainer(Cpu::new(Some(1)).expect("a thread")).state().expect("a state");
    let hyper = Hyperparameters { optimizer: two_epochs().optimizer, ..hyper(None) };
    let mut plain =
        Trainer::new(Cpu::new(Some(1)).expect("a thread"), network(), digits(90, 32), hyper).expect("a trainer");
    let message = format!("{:#}", plain.restore(&state).expect_err("the run keeps no average"));
    assert!(message.contains("averaged weights"), "{message}");
}

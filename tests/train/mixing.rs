//! Runs with mixup, cutmix and weights of classes: resuming, partial batches, and agreement of the backends.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::ops::{Backend, Mixing};
use cnn_cuda::train::{Hyperparameters, Outcome, Trainer};

use super::harness::{Listener, bits, digits, lenet5, two_epochs};
use crate::ops::{Tolerance, compare};

const WEIGHTS: [f32; 10] = [0.5, 1.0, 2.0, 0.0, 1.0, 3.0, 1.5, 0.25, 1.0, 0.75];

/// Two epochs of three steps, the last on a partial batch.
fn hyper() -> Hyperparameters {
    let mixing = Mixing { mixup: Some(0.5), cutmix: Some(1.0) };
    Hyperparameters { mixing, weighted: true, label_smoothing: 0.1, ..two_epochs() }
}

fn trainer<B: Backend>(backend: B, hyper: Hyperparameters) -> Trainer<B> {
    let mut trainer = Trainer::new(backend, lenet5(), digits(90, 32), hyper).expect("a trainer");
    trainer.backend.set_class_weights(&WEIGHTS).expect("weights");
    trainer
}

/// The weights and losses of a whole run.
fn run<B: Backend>(backend: B, hyper: Hyperparameters) -> (Vec<f32>, Vec<f32>) {
    let (mut trainer, mut listener) = (trainer(backend, hyper), Listener::default());
    assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
    (trainer.parameters().expect("read"), listener.losses)
}

/// An interrupted run ends with the weights of a whole one. Tests of other backends use it too.
pub fn check_interruption<B: Backend>(backend: impl Fn() -> B, stops: &[u64]) {
    let (whole, losses) = run(backend(), hyper());
    for &stop in stops {
        let mut one = trainer(backend(), hyper());
        let mut before = Listener { stop_after: Some(stop), ..Listener::default() };
        assert_eq!(one.run(&mut before).expect("a run"), Outcome::Interrupted);
        let mut other = trainer(backend(), hyper());
        other.restore(&one.state().expect("a state")).expect("restored");
        let mut after = Listener::default();
        other.run(&mut after).expect("a run");
        assert_eq!(bits(&[before.losses, after.losses].concat()), bits(&losses), "stopped after {stop}");
        assert_eq!(bits(&other.parameters().expect("read")), bits(&whole), "stopped after {stop}");
    }
}

/// The losses of a run are those of the CPU. Tests of other backends use it too.
pub fn check_losses<B: Backend>(backend: B) {
    let expected: Vec<f64> = run(cpu(), hyper()).1.into_iter().map(f64::from).collect();
    let tolerance = Tolerance { absolute: 0.0, relative: 1e-4 };
    compare("losses", &run(backend, hyper()).1, &expected, tolerance);
}

fn cpu() -> Cpu {
    Cpu::new(Some(2)).expect("threads")
}

#[test]
fn mixed_and_weighted_runs_resume_bit_identical() {
    check_interruption(cpu, &[1, 3, 4]);
}

#[test]
fn mixing_and_weights_change_what_is_trained() {
    let all = run(cpu(), hyper());
    let one = |change: fn(&mut Hyperparameters)| {
        let mut hyper = hyper();
        change(&mut hyper);
        run(cpu(), hyper)
    };
    assert!(all != one(|hyper| hyper.mixing = Mixing::default()), "mixing");
    assert!(all != one(|hyper| hyper.mixing.cutmix = None), "cutmix");
    assert!(all != one(|hyper| hyper.mixing.mixup = None), "mixup");
    assert!(all != one(|hyper| hyper.weighted = false), "weights");
    assert!(all != one(|hyper| hyper.seed = 1), "seed");
}

#[test]
fn a_batch_of_one_image_is_mixed_with_itself() {
    let alone = Hyperparameters { batch_size: 1, max_steps: Some(20), weighted: false, ..hyper() };
    let (_, plain) = run(cpu(), Hyperparameters { mixing: Mixing::default(), ..alone });
    let (_, mixed) = run(cpu(), alone);
    let plain: Vec<f64> = plain.into_iter().map(f64::from).collect();
    compare("losses", &mixed, &plain, Tolerance { absolute: 1e-4, relative: 1e-4 });
}

#[test]
fn mixing_cannot_be_switched_on_later() {
    let mut trainer = trainer(cpu(), Hyperparameters { mixing: Mixing::default(), ..hyper() });
    assert!(trainer.set_hyper(hyper()).is_err());
}

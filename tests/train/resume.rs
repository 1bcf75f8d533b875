//! Runs are bit-identical for any number of threads and when resumed after any step.

use cnn_cuda::checkpoint::{RunIdentity, load_state, save_state};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::models::find;
use cnn_cuda::ops::Optimizer;
use cnn_cuda::train::{EpochReport, Hyperparameters, Observer, Outcome, TrainState, Trainer};

use super::harness::{Listener, bits, digits, diverging, lenet5, two_epochs};

fn trainer(threads: usize) -> Trainer<Cpu> {
    let backend = Cpu::new(Some(threads)).expect("threads");
    Trainer::new(backend, lenet5(), digits(340, 150), two_epochs()).expect("a trainer")
}

/// The final parameters and all step losses of an uninterrupted run, as bits.
fn whole_run(threads: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut trainer, mut listener) = (trainer(threads), Listener::default());
    assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
    assert_eq!(listener.losses.len(), 22);
    (bits(&trainer.parameters().expect("read")), bits(&listener.losses))
}

#[test]
fn weights_are_bit_identical_for_any_number_of_threads() {
    let one = whole_run(1);
    assert_eq!(one, whole_run(2));
    assert_eq!(one, whole_run(5));
}

#[test]
fn mnist_cnn_is_bit_identical_for_any_number_of_threads() {
    let model = find("mnist-cnn").expect("a known model");
    let run = |threads| {
        let network = (model.build)(model.input, model.classes).expect("a network");
        let hyper = Hyperparameters { max_steps: Some(3), ..two_epochs() };
        let backend = Cpu::new(Some(threads)).expect("threads");
        let mut trainer = Trainer::new(backend, network, digits(340, 150), hyper).expect("a trainer");
        trainer.run(&mut Listener::default()).expect("a run");
        bits(&trainer.parameters().expect("read"))
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn a_run_resumed_after_any_step_is_bit_identical() {
    let whole = whole_run(2);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let identity = RunIdentity {
        model: "lenet5".into(),
        dataset: "digits".into(),
        train_images: 340,
        data_fingerprint: 99,
        seed: 0,
        batch_size: 32,
        shuffle: true,
        ..RunIdentity::default()
    };
    for stop in [0, 1, 10, 11, 17, 21, 22] {
        let (mut first, mut before) = (trainer(2), Listener { stop_after: Some(stop), ..Listener::default() });
        assert_eq!(first.run(&mut before).expect("a run"), Outcome::Interrupted);
        let state = first.state().expect("a state");
        // At the end of an epoch, the evaluation is interrupted.
        assert_eq!((state.position.total_steps, state.evaluation_pending), (stop, stop == 11 || stop == 22));
        save_state(&path, &lenet5(), &identity, &state).expect("saved");
        let loaded = load_state(&path, &lenet5(), &identity).expect("loaded");
        let (mut second, mut after) = (trainer(1), Listener::default());
        second.restore(&loaded).expect("restored");
        assert_eq!(second.run(&mut after).expect("a run"), Outcome::Finished);
        assert_eq!(bits(&second.parameters().expect("read")), whole.0, "stopped after {stop}");
        let losses: Vec<f32> = before.losses.iter().chain(&after.losses).copied().collect();
        assert_eq!(bits(&losses), whole.1, "stopped after {stop}");
        let reports: Vec<_> = before.epochs.iter().chain(&after.epochs).map(|it| (it.epoch, it.total_steps)).collect();
        assert_eq!(reports, [(1, 11), (2, 22)], "stopped after {stop}");
    }
}

#[test]
fn the_metrics_of_an_epoch_include_the_steps_before_an_interruption() {
    let (mut whole, mut expected) = (trainer(2), Listener::default());
    whole.run(&mut expected).expect("a run");
    let (mut first, mut before) = (trainer(2), Listener { stop_after: Some(5), ..Listener::default() });
    first.run(&mut before).expect("a run");
    let (mut second, mut after) = (trainer(2), Listener::default());
    second.restore(&first.state().expect("a state")).expect("restored");
    second.run(&mut after).expect("a run");
    let sums = |epochs: &Listener| epochs.epochs.iter().map(|e| (e.train, e.test)).collect::<Vec<_>>();
    assert_eq!(sums(&after), sums(&expected));
    assert_eq!(after.epochs[0].train.samples, 340);
}

#[test]
fn a_run_ended_by_max_steps_can_be_continued_bit_identical() {
    let whole = whole_run(2);
    let mut first = trainer(2);
    first.set_hyper(Hyperparameters { max_steps: Some(15), ..*first.hyper() }).expect("settings");
    let mut listener = Listener::default();
    assert_eq!(first.run(&mut listener).expect("a run"), Outcome::Finished);
    assert_eq!((listener.epochs.len(), first.position().total_steps), (2, 15));
    assert_eq!(listener.epochs[1].train.samples, 4 * 32);
    let mut second = trainer(2);
    second.restore(&first.state().expect("a state")).expect("restored");
    second.run(&mut Listener::default()).expect("a run");
    assert_eq!(bits(&second.parameters().expect("read")), whole.0);
}

/// A limit within an epoch ends with an evaluation, which an interrupted run makes when it resumes; with a later limit,
/// it continues.
#[test]
fn an_interrupted_evaluation_of_a_partial_epoch_is_made_or_superseded() {
    let limited = |steps| {
        let mut trainer = trainer(2);
        trainer.set_hyper(Hyperparameters { max_steps: Some(steps), ..*trainer.hyper() }).expect("settings");
        trainer
    };
    let mut first = limited(15);
    let mut before = Listener { stop_after: Some(15), ..Listener::default() };
    assert_eq!(first.run(&mut before).expect("a run"), Outcome::Interrupted);
    let state = first.state().expect("a state");
    assert!(state.evaluation_pending && first.ending().is_none());
    let run = |steps| {
        let (mut second, mut after) = (limited(steps), Listener::default());
        second.restore(&state).expect("restored");
        assert_eq!(second.run(&mut after).expect("a run"), Outcome::Finished);
        let reports = after.epochs.iter().map(|it| (it.epoch, it.total_steps, it.train.samples)).collect::<Vec<_>>();
        assert!(!second.state().expect("a state").evaluation_pending);
        (reports, bits(&second.parameters().expect("read")))
    };
    let (reports, weights) = run(15);
    assert_eq!((reports, weights), (vec![(2, 15, 4 * 32)], bits(&first.parameters().expect("read"))));
    let (reports, weights) = run(22);
    assert_eq!((reports, weights), (vec![(2, 22, 340)], whole_run(2).0));
}

/// Interrupts the first evaluation after some of its steps.
struct DuringEvaluation {
    asked: std::cell::Cell<u32>,
    evaluating: bool,
    reports: usize,
}

impl Observer<Cpu> for DuringEvaluation {
    fn wants_to_stop(&self) -> bool {
        self.asked.set(self.asked.get() + u32::from(self.evaluating));
        self.asked.get() > 1
    }

    fn on_evaluation(&mut self, trainer: &mut Trainer<Cpu>) -> anyhow::Result<()> {
        self.evaluating = true;
        // The epoch can be saved before it is evaluated.
        assert_eq!(trainer.state()?.position.total_steps, 11);
        Ok(())
    }

    fn on_epoch(&mut self, _trainer: &mut Trainer<Cpu>, _report: &EpochReport) -> anyhow::Result<()> {
        self.reports += 1;
        Ok(())
    }
}

/// With averaged weights, an evaluation exchanges them; when it is interrupted, they are exchanged back.
#[test]
fn an_evaluation_is_interrupted_between_its_steps() {
    let averaged = || {
        let hyper = two_epochs();
        let optimizer = Optimizer { average_decay: Some(0.9), ..hyper.optimizer };
        let hyper = Hyperparameters { optimizer, ..hyper };
        Trainer::new(Cpu::new(Some(2)).expect("threads"), lenet5(), digits(340, 150), hyper).expect("a trainer")
    };
    let mut whole = averaged();
    whole.run(&mut Listener::default()).expect("a run");
    let mut observer = DuringEvaluation { asked: 0.into(), evaluating: false, reports: 0 };
    let mut first = averaged();
    assert_eq!(first.run(&mut observer).expect("a run"), Outcome::Interrupted);
    assert_eq!((observer.asked.get(), observer.reports), (2, 0), "150 images in steps of 100");
    let state = first.state().expect("a state");
    let mut second = averaged();
    second.restore(&state).expect("restored");
    second.run(&mut Listener::default()).expect("a run");
    let ends = [&mut second, &mut whole].map(|it| TrainState { epoch_seconds: 0.0, ..it.state().expect("a state") });
    assert_eq!(ends[0], ends[1]);
}

#[test]
fn the_error_for_divergence_names_the_step() {
    let mut trainer = trainer(2);
    trainer.set_hyper(diverging(trainer.hyper())).expect("settings");
    let error = trainer.run(&mut Listener::default()).expect_err("it diverges");
    let message = format!("{error:#}");
    assert!((1..=3).any(|step| message.contains(&format!("at step {step} "))), "{message}");
    assert!(message.contains("--lr"), "{message}");
}

#[test]
fn a_state_that_does_not_match_the_run_is_refused() {
    let mut state = trainer(1).state().expect("a state");
    state.position.step_in_epoch = 11;
    assert!(trainer(1).restore(&state).is_err(), "an epoch has 11 steps");
    let mut state = trainer(1).state().expect("a state");
    state.momentum.clear();
    assert!(trainer(1).restore(&state).is_err(), "this run has momentum");
}

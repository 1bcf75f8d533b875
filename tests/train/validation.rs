//! Validation during a run: its numbers, the best epoch by them, and when a run ends for want of a better one.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::Cuda;
use cnn_cuda::data::{Dataset, Split};
use cnn_cuda::ops::{Backend, Optimizer, Precision};
use cnn_cuda::train::{Ending, Hyperparameters, LearningRate, Monitor, Trainer, WarmUp};

use super::harness::{Listener, digits, lenet5, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::on_cuda;

fn cpu() -> Cpu {
    Cpu::new(Some(2)).expect("two threads")
}

/// The last `count` training images become the validation set.
fn with_validation(mut set: Dataset, count: usize) -> Dataset {
    let kept = set.train.count() - count;
    let images = set.train.images.split_off(kept * set.shape.len());
    set.val = Split { images, labels: set.train.labels.split_off(kept), ..Split::default() };
    set
}

fn run<B: Backend>(backend: B, set: Dataset, hyper: Hyperparameters) -> (Trainer<B>, Listener) {
    let mut trainer = Trainer::new(backend, lenet5(), set, hyper).expect("a trainer");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    (trainer, listener)
}

/// The metrics of both sets are those of runs in which each is the test set. The sizes leave partial batches.
fn check_metrics<B: Backend>(new: impl Fn() -> B) {
    let set = with_validation(digits(300, 130), 70);
    let (_, both) = run(new(), set.clone(), two_epochs());
    let (_, tested) = run(new(), Dataset { val: Split::default(), ..set.clone() }, two_epochs());
    let val = Dataset { val: Split::default(), test: set.val.clone(), ..set };
    let (_, validated) = run(new(), val, two_epochs());
    for (both, (tested, validated)) in both.epochs.iter().zip(tested.epochs.iter().zip(&validated.epochs)) {
        assert_eq!((both.val, both.test, both.train), (Some(validated.test), tested.test, tested.train));
        assert_eq!((tested.val, tested.is_best), (None, false));
    }
    assert_eq!(both.epochs.len(), 2);
}

#[test]
fn the_validation_set_is_evaluated_like_a_test_set() {
    check_metrics(cpu);
}

#[test]
#[ignore = "long; CI runs it"]
fn the_validation_set_is_evaluated_like_a_test_set_on_cuda() {
    on_cuda(|| check_metrics(|| Cuda::new(options(Precision::Fp32)).expect("a device")));
}

/// Streamed sets are joined without being read.
#[test]
fn a_streamed_validation_set_gives_the_same_numbers() {
    let set = with_validation(digits(300, 130), 70);
    let mut streamed = set.clone();
    streamed.stream_from_memory().expect("memory");
    let [resident, streamed] = [set, streamed].map(|set| run(cpu(), set, two_epochs()).1.epochs);
    for (a, b) in resident.iter().zip(&streamed) {
        assert_eq!((a.val, a.test), (b.val, b.test));
    }
}

/// The learning rate rises for three epochs: the first learns, the others are worse than it.
fn forgetting(monitor: Option<Monitor>) -> Hyperparameters {
    Hyperparameters {
        epochs: 4,
        learning_rate: LearningRate { warm_up: WarmUp::Epochs(3), ..LearningRate::constant(1.5) },
        optimizer: Optimizer::default(),
        monitor,
        ..two_epochs()
    }
}

#[test]
fn the_best_epoch_is_that_of_the_monitored_number() {
    let set = with_validation(digits(1200, 200), 200);
    for monitor in [None, Some(Monitor::ValAccuracy), Some(Monitor::TestLoss), Some(Monitor::TestAccuracy)] {
        let (trainer, listener) = run(cpu(), set.clone(), forgetting(monitor));
        let value = |epoch: &cnn_cuda::train::EpochReport| {
            monitor.unwrap_or(Monitor::ValLoss).value(epoch.val, epoch.test).expect("a value")
        };
        let sign = if monitor.is_none_or(Monitor::is_loss) { 1.0 } else { -1.0 };
        let best =
            listener.epochs.iter().min_by(|a, b| (sign * value(a)).total_cmp(&(sign * value(b)))).expect("epochs");
        let chosen = trainer.chosen().expect("a best epoch");
        assert_eq!((chosen.epoch, chosen.value), (best.epoch, value(best)), "{monitor:?}");
        assert!(chosen.epoch < 4, "the last epochs are not worse: {:?}", listener.epochs);
        let last = listener.epochs.iter().rev().find(|epoch| epoch.is_best).expect("a best epoch");
        assert_eq!(last.epoch, chosen.epoch);
    }
}

/// A step limit within the first or a later epoch, where the evaluation would be the best, does not change what a
/// continued run chooses.
#[test]
fn an_epoch_that_is_cut_short_is_not_chosen() {
    let set = with_validation(digits(1200, 200), 200);
    let hyper = forgetting(Some(Monitor::ValAccuracy));
    let whole = run(cpu(), set.clone(), hyper).0;
    let steps = whole.steps_per_epoch();
    for limit in [steps / 2, steps - 1, steps + 1, 2 * steps + 1] {
        let (mut trainer, listener) = run(cpu(), set.clone(), Hyperparameters { max_steps: Some(limit), ..hyper });
        let whole_epochs = limit / steps;
        assert_eq!(listener.epochs.last().expect("an epoch").is_best, whole_epochs == 0, "after {limit} steps");
        assert_eq!(trainer.chosen().map(|it| u64::from(it.epoch)).filter(|&it| it > whole_epochs), None);
        trainer.set_hyper(hyper).expect("the same memory");
        trainer.run(&mut Listener::default()).expect("a run");
        assert_eq!(trainer.chosen(), whole.chosen(), "after {limit} steps");
        assert_eq!(
            trainer.state().expect("a state").best,
            run(cpu(), set.clone(), hyper).0.state().expect("a state").best
        );
    }
}

#[test]
fn patience_watches_the_monitored_number() {
    let set = with_validation(digits(1200, 200), 200);
    let hyper = Hyperparameters { epochs: 20, patience: Some(1), ..forgetting(None) };
    let (trainer, listener) = run(cpu(), set, hyper);
    let losses: Vec<f64> = listener.epochs.iter().map(|epoch| epoch.val.expect("validated").loss()).collect();
    let (last, earlier) = losses.split_last().expect("epochs");
    assert!(earlier.is_sorted_by(|a, b| a > b) && last >= earlier.last().expect("two epochs"), "{losses:?}");
    assert_eq!(trainer.ending(), Some(Ending::Patience));
}

#[test]
fn a_monitor_without_its_set_is_an_error() {
    let hyper = Hyperparameters { monitor: Some(Monitor::ValAccuracy), ..two_epochs() };
    let error = Trainer::new(cpu(), lenet5(), digits(100, 10), hyper).err().expect("an error");
    assert!(format!("{error:#}").contains("needs a validation set"), "{error:#}");
}

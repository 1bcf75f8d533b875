//! Shared by the training tests: an observer, a small network and its settings, and small data sets.

use cnn_cuda::data::{Dataset, Split};
use cnn_cuda::models::find;
use cnn_cuda::network::{Network, Weights};
use cnn_cuda::ops::{Augmentation, Backend, Mixing, Optimizer, Rule, StepLoss, TestViews, Transforms};
use cnn_cuda::plan::{self, Plan, Sequence};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{EpochReport, Hyperparameters, LearningRate, Observer, StepReport, Trainer};

/// Records losses and epoch reports, and stops the run after `stop_after` steps.
#[derive(Default)]
pub struct Listener {
    pub losses: Vec<f32>,
    pub epochs: Vec<EpochReport>,
    pub steps: u64,
    pub stop_after: Option<u64>,
}

impl<B: Backend> Observer<B> for Listener {
    fn wants_to_stop(&self) -> bool {
        self.stop_after.is_some_and(|steps| self.steps >= steps)
    }

    fn on_step(&mut self, _report: &StepReport) {
        self.steps += 1;
    }

    fn on_step_losses(&mut self, _first_step: u64, losses: &[StepLoss]) -> anyhow::Result<()> {
        self.losses.extend(losses.iter().map(|step| step.loss));
        Ok(())
    }

    fn on_epoch(&mut self, _trainer: &mut Trainer<B>, report: &EpochReport) -> anyhow::Result<()> {
        self.epochs.push(report.clone());
        Ok(())
    }
}

/// Runs a sequence of a plan once.
pub fn run_once<B: Backend>(backend: &mut B, plan: &Plan, sequence: Sequence, batch: usize) {
    let mut program = backend.compile(plan.steps(&sequence, batch)).expect("a program");
    backend.run(&mut program).expect("a run");
}

/// Allocates the backend for `plan`, and returns the logits of a full batch of inputs.
pub fn logits<B: Backend>(backend: &mut B, plan: &Plan, weights: &Weights, input: &[f32]) -> Vec<f32> {
    backend.allocate(&plan.memory_sizes(false)).expect("memory");
    plan::write_weights(backend, weights).expect("weights");
    backend.write(plan.span(plan.input, plan.max_batch), input).expect("write");
    run_once(backend, plan, Sequence::Forward, plan.max_batch);
    backend.read(plan.span(plan.logits, plan.max_batch)).expect("read")
}

/// The same settings with a learning rate that makes the loss infinite within three steps.
pub fn diverging(hyper: &Hyperparameters) -> Hyperparameters {
    Hyperparameters { learning_rate: LearningRate { rate: 1e38, ..hyper.learning_rate }, ..*hyper }
}

/// One unshuffled epoch of plain SGD, with every step's loss logged.
pub fn hyperparameters(batch_size: usize, learning_rate: f32) -> Hyperparameters {
    Hyperparameters {
        transforms: Transforms::default(),
        epochs: 1,
        batch_size,
        grad_accum_steps: None,
        eval_batch_size: batch_size,
        learning_rate: LearningRate::constant(learning_rate),
        target_accuracy: None,
        monitor: None,
        patience: None,
        optimizer: Optimizer::default(),
        augmentation: Augmentation::default(),
        label_smoothing: 0.0,
        views: TestViews::None,
        mixing: Mixing::default(),
        weighted: false,
        seed: 0,
        shuffle: false,
        max_steps: None,
        unfreeze_at: None,
        log_steps: true,
    }
}

/// A small network for short runs.
pub fn lenet5() -> Network {
    let model = find("lenet5").expect("a known model");
    (model.build)(model.input, model.classes).expect("a network")
}

/// Two epochs; 340 images give eleven steps an epoch, the last on a partial batch.
pub fn two_epochs() -> Hyperparameters {
    let optimizer = Optimizer { rule: Rule::sgd(0.9, true), weight_decay: 5e-4, ..Optimizer::default() };
    Hyperparameters { epochs: 2, eval_batch_size: 100, shuffle: true, optimizer, ..hyperparameters(32, 0.02) }
}

/// The bits of `values`, for exact comparison.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A data set of the given images, the first of which is also the test set.
pub fn dataset(shape: Shape, classes: usize, images: Vec<u8>, labels: Vec<u32>) -> Dataset {
    let test = Split { images: images[..shape.len()].to_vec(), labels: vec![labels[0]], ..Split::default() };
    Dataset {
        name: "test".into(),
        shape,
        classes: (0..classes).map(|class| class.to_string()).collect(),
        mean: vec![0.5; shape.channels],
        std: vec![0.5; shape.channels],
        train: Split { images, labels, ..Split::default() },
        val: Split::default(),
        test,
    }
}

/// The first `train` and `test` images of the embedded digits.
pub fn digits(train: usize, test: usize) -> Dataset {
    static DIGITS: std::sync::LazyLock<Dataset> = std::sync::LazyLock::new(cnn_cuda::data::digits::generate);
    let mut set = DIGITS.clone();
    for (split, count) in [(&mut set.train, train), (&mut set.test, test)] {
        split.images.truncate(count * set.shape.len());
        split.labels.truncate(count);
    }
    set
}

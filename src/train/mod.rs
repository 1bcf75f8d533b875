//! Training: the trainer, its position and state, and the epoch loop.

mod accumulation;
mod cells;
mod evaluate;
mod images;
mod monitor;
mod predict;
mod programs;
mod range_test;
mod run;
mod schedule;
mod setup;
mod state;
mod transforms;
mod unfreeze;

pub use cells::{Learned, LearnedLayer, learn_cells};
pub use evaluate::Evaluator;
pub use images::FirstBatch;
pub use monitor::Monitor;
pub use predict::{Prediction, predict};
pub use range_test::{RangeEnding, RangeStep, RangeTest, RateRange, Suggestion};
pub use run::{Ending, EpochReport, Observer, Outcome, StepReport};
pub use schedule::{LearningRate, Schedule, WarmUp};
pub use state::{Best, Chosen, Position, TrainState};

use anyhow::{Context, Result, ensure};

use crate::data::{Dataset, Split, sampler};
use crate::network::{Network, Statistics, Weights};
use crate::ops::{
    Augmentation, Backend, Metrics, MicroBatch, Mix, Mixing, Normalise, Optimizer, Region, Span, Subset, TestViews,
    Transforms,
};
use crate::plan::{Accumulation, Mode, Plan, Sequence, TrainSettings};
use crate::shape::Shape;
use programs::Programs;
use setup::{
    check_batch, check_dataset, check_images, check_rule, check_warm_up, initial_weights, load_split, memory_sizes,
    state_of,
};
use transforms::{stage_of, stored_shape};
use unfreeze::Unfrozen;

/// The settings of a run that affect its numbers, apart from network and data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hyperparameters {
    pub epochs: u32,
    pub batch_size: usize,
    /// Batches whose gradients an optimiser step accumulates; one by default.
    pub grad_accum_steps: Option<usize>,
    pub eval_batch_size: usize,
    pub learning_rate: LearningRate,
    pub optimizer: Optimizer,
    /// Random augmentation of training images.
    pub augmentation: Augmentation,
    /// Random transforms of training images besides those.
    pub transforms: Transforms,
    /// Mixing of the images of a training batch.
    pub mixing: Mixing,
    /// Whether each class has a weight in the training loss; [`TrainingState::set_class_weights`] sets them.
    ///
    /// [`TrainingState::set_class_weights`]: crate::ops::TrainingState::set_class_weights
    pub weighted: bool,
    /// Fraction of each label that is spread over all classes, in training only.
    pub label_smoothing: f32,
    /// The views of each image whose logits evaluation averages.
    pub views: TestViews,
    pub seed: u64,
    pub shuffle: bool,
    /// Ends the run after this many optimiser steps in total.
    pub max_steps: Option<u64>,
    /// Ends the run with the evaluation that reaches this test accuracy.
    pub target_accuracy: Option<f64>,
    /// By which number the best epoch is chosen. By default the validation loss, if there is a validation set.
    pub monitor: Option<Monitor>,
    /// Ends the run after this many epochs without a better one by `monitor`, or without it by the test accuracy.
    pub patience: Option<u32>,
    /// The epoch, counted from 1, from which on nothing of the network is frozen.
    pub unfreeze_at: Option<u32>,
    /// Whether to report the loss of every step.
    pub log_steps: bool,
}

impl Hyperparameters {
    /// The batches of an optimiser step.
    pub fn accumulated(&self) -> usize {
        self.grad_accum_steps.unwrap_or(1)
    }
}

/// A network, its data and its optimiser state on a backend. The [crate's example](crate#example) trains one.
pub struct Trainer<B: Backend> {
    pub backend: B,
    pub network: Network,
    hyper: Hyperparameters,
    plan: Plan,
    eval_plan: Plan,
    programs: Programs<B>,
    train_count: usize,
    /// The shape of the training images before they are transformed.
    stored: Shape,
    /// The images of the validation and of the test set, which are in this order on the backend.
    val_count: usize,
    test_count: usize,
    position: Position,
    /// Whether the steps before the current position are yet to be evaluated.
    evaluation_pending: bool,
    best: Option<Best>,
    chosen: Option<Chosen>,
    /// Replaces network and plan when a frozen part of the network is unfrozen.
    unfrozen: Option<Unfrozen<B>>,
    /// `num_batches_tracked` of each batch normalisation before the first step of this run, or if frozen, now.
    tracked_before: Vec<i64>,
    /// Seconds of training in the current epoch before this process resumed it.
    earlier_seconds: f64,
}

impl<B: Backend> Trainer<B> {
    /// Plans the network, loads the data set, allocates memory and draws the initial parameters from the seed.
    ///
    /// # Errors
    /// The data set does not fit the network, a batch size is 0, the warm-up is as long as the run, or the device has too
    /// little memory.
    pub fn new(mut backend: B, network: Network, dataset: Dataset, hyper: Hyperparameters) -> Result<Self> {
        ensure!(hyper.batch_size > 0 && hyper.eval_batch_size > 0, "a batch must have at least one image");
        ensure!(hyper.accumulated() > 0, "an optimiser step must have at least one batch");
        check_dataset(&network, &dataset)?;
        check_rule(&network, &hyper)?;
        check_images(&hyper, dataset.shape)?;
        let [train_count, val_count, test_count] = [&dataset.train, &dataset.val, &dataset.test].map(Split::count);
        let default = (val_count > 0).then_some(Monitor::ValLoss);
        let hyper = Hyperparameters { monitor: hyper.monitor.or(default), ..hyper };
        ensure!(
            val_count > 0 || !hyper.monitor.is_some_and(Monitor::needs_validation),
            "--monitor {} needs a validation set: --val-fraction, or a folder val beside test",
            hyper.monitor.map_or("", Monitor::name)
        );
        let most = [hyper.batch_size.min(train_count), hyper.eval_batch_size.min(val_count.max(test_count))];
        let plan = Plan::new(&network, Mode::Training, most[0])?.with_mixing(hyper.mixing.is_on());
        let unfrozen = Unfrozen::new(&network, &hyper, plan.max_batch)?;
        let eval_plan = Plan::new(&network, Mode::Inference, most[1])?.with_views(hyper.views);
        for batch in [plan.max_batch, train_count % plan.max_batch] {
            check_batch(unfrozen.as_ref().map_or(&network, |it| &it.network), batch)?;
        }
        let stored = stored_shape(&dataset, &hyper)?;
        let normalise = Normalise { shape: dataset.shape, mean: dataset.mean, std: dataset.std };
        let initial = initial_weights(&network, hyper.seed, &dataset.train, &normalise)?;
        load_split(&mut backend, Subset::Train, dataset.train, &normalise, plan.max_batch)?;
        let evaluated = dataset.val.join(dataset.test, dataset.shape.len());
        load_split(&mut backend, Subset::Test, evaluated, &normalise, eval_plan.max_batch)?;
        // Allocated after the data, so that a check against free memory takes the data into account.
        let plans = [Some(&plan), unfrozen.as_ref().map(|it| &it.plan)];
        backend.allocate(&memory_sizes(plans.into_iter().flatten(), &eval_plan, &hyper, stored))?;
        backend.set_update_count(0)?; // the backend may have trained before
        let mut trainer = Self {
            backend,
            network,
            hyper,
            plan,
            eval_plan,
            programs: Programs::default(),
            train_count,
            stored,
            val_count,
            test_count,
            position: Position::default(),
            evaluation_pending: false,
            best: None,
            chosen: None,
            unfrozen,
            tracked_before: Vec::new(),
            earlier_seconds: 0.0,
        };
        check_warm_up(&trainer.hyper, trainer.steps_per_epoch())?;
        trainer.compile()?;
        trainer.set_weights(&initial)?;
        Ok(trainer)
    }

    pub fn hyper(&self) -> &Hyperparameters {
        &self.hyper
    }

    /// Changes the settings for the following steps.
    ///
    /// # Errors
    /// A change that needs other memory: of a batch size, the number of accumulated batches, the views of an evaluation,
    /// transforms, or whether there is momentum, weight averaging or mixing.
    pub fn set_hyper(&mut self, hyper: Hyperparameters) -> Result<()> {
        let planned = |it: &Hyperparameters| {
            let Optimizer { rule, average_decay, .. } = it.optimizer;
            let batches = (it.batch_size, it.accumulated(), it.eval_batch_size, it.views, it.mixing.is_on());
            (batches, state_of(&rule), average_decay.is_some(), stage_of(it, self.stored))
        };
        ensure!(
            planned(&hyper) == planned(&self.hyper),
            "batch sizes, accumulation, the views of an evaluation, the optimiser, transforms, and whether there is momentum, \
             weight averaging or mixing, cannot change after a trainer is created"
        );
        check_rule(&self.network, &hyper)?;
        check_images(&hyper, self.network.input())?;
        self.hyper = Hyperparameters { monitor: hyper.monitor.or(self.hyper.monitor), ..hyper };
        Ok(())
    }

    /// Compiles the programs for all batch sizes that occur: full batches and the last batch of an epoch.
    fn compile(&mut self) -> Result<()> {
        self.compile_training()?;
        let (plan, programs, backend) = (&self.eval_plan, &mut self.programs, &mut self.backend);
        for count in [self.val_count, self.test_count].into_iter().filter(|&count| count > 0) {
            for batch in [plan.max_batch.min(count), count % plan.max_batch].into_iter().filter(|&batch| batch > 0) {
                programs.get(backend, plan, Sequence::EvaluateStep, batch)?;
            }
        }
        Ok(())
    }

    /// Optimiser steps in an epoch; the last may have fewer images.
    pub fn steps_per_epoch(&self) -> u64 {
        self.train_count.div_ceil(self.images_per_step()) as u64
    }

    pub fn position(&self) -> Position {
        self.position
    }

    /// The best epoch so far by the monitored number; `None` before the first evaluation, or if none is monitored.
    pub fn chosen(&self) -> Option<Chosen> {
        self.chosen
    }

    /// All parameters, flat, in memory layout.
    pub fn parameters(&mut self) -> Result<Vec<f32>> {
        self.backend.read(Span::new(Region::Parameters, 0, self.network.parameter_count()))
    }

    /// Replaces all parameters, and sets their average to them.
    pub fn set_parameters(&mut self, parameters: &[f32]) -> Result<()> {
        let count = self.network.parameter_count();
        ensure!(parameters.len() == count, "{} parameters for a network that has {count}", parameters.len());
        self.backend.write(Span::new(Region::Parameters, 0, count), parameters)?;
        if self.has_average() {
            self.backend.write(Span::new(Region::Average, 0, count), parameters)?;
        }
        Ok(())
    }

    /// The running statistics of all batch normalisations.
    pub fn statistics(&mut self) -> Result<Statistics> {
        let values = self.backend.read(Span::new(Region::Statistics, 0, self.network.statistics_len()))?;
        let steps = self.batches_done() as i64;
        let counted = |(before, counts): (&i64, bool)| if counts { before.wrapping_add(steps) } else { *before };
        let batches_tracked = self.tracked_before.iter().zip(self.tracking()).map(counted).collect();
        Ok(Statistics { values, batches_tracked })
    }

    /// Replaces all parameters and running statistics.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        self.set_parameters(&weights.parameters)?;
        self.set_statistics(&weights.statistics)
    }

    fn set_statistics(&mut self, statistics: &Statistics) -> Result<()> {
        let Statistics { values, batches_tracked } = statistics;
        let (len, count) = (self.network.statistics_len(), self.network.statistics.len());
        ensure!(
            (values.len(), batches_tracked.len()) == (len, count),
            "{} running statistics of {} batch normalisations for a network that has {len} of {count}",
            values.len(),
            batches_tracked.len()
        );
        let steps = self.batches_done() as i64;
        let before = |(tracked, counts): (&i64, bool)| if counts { tracked.wrapping_sub(steps) } else { *tracked };
        self.tracked_before = batches_tracked.iter().zip(self.tracking()).map(before).collect();
        self.backend.write(Span::new(Region::Statistics, 0, len), values)
    }

    /// Sets the order of images, the learning rates and the random numbers for the rest of the current epoch.
    fn begin_epoch(&mut self) -> Result<()> {
        let Position { epoch, step_in_epoch, .. } = self.position;
        if step_in_epoch == self.steps_per_epoch() {
            return Ok(()); // only the evaluation is left
        }
        let order = sampler::epoch_order(self.train_count, self.hyper.seed, epoch, self.hyper.shuffle);
        let begin = usize::try_from(step_in_epoch).context("position")? * self.images_per_step();
        self.backend.set_order(Subset::Train, &order, begin)?;
        if self.hyper.augmentation != Augmentation::default() {
            self.backend.set_augmentation_epoch(self.hyper.seed, epoch)?;
        }
        self.set_draws(epoch, &order)?;
        let (steps, done) = (self.steps_per_epoch(), self.position.total_steps);
        let mix = |batch| self.hyper.mixing.draw(self.network.input(), self.hyper.seed, epoch, batch);
        let batches = self.train_count.div_ceil(self.plan.max_batch) as u64;
        let mixes: Vec<Mix> = (self.batches_in_epoch()..batches).filter_map(mix).collect();
        if !mixes.is_empty() {
            self.backend.set_mixes(&mixes)?;
        }
        let left = done..done + steps - step_in_epoch;
        let rates: Vec<f32> = left.map(|step| self.hyper.learning_rate.at(step, steps, self.hyper.epochs)).collect();
        self.backend.set_learning_rates(&rates)?;
        self.backend.set_dropout_step(self.hyper.seed, self.batches_done())?;
        if step_in_epoch == 0 {
            self.earlier_seconds = 0.0;
            self.backend.set_metrics(Metrics::default())?;
        }
        Ok(())
    }

    /// Runs one optimiser step on the next batch of the epoch, or on the next batches if they are accumulated.
    fn step(&mut self) -> Result<()> {
        for (sequence, batch) in self.micro_steps(self.position.total_steps, self.position.step_in_epoch) {
            let program = self.programs.get(&mut self.backend, &self.plan, sequence, batch)?;
            self.backend.run(program)?;
        }
        self.evaluation_pending = false; // more steps were allowed since it was
        self.position.step_in_epoch += 1;
        self.position.total_steps += 1;
        Ok(())
    }

    /// Whether the weights are averaged.
    fn has_average(&self) -> bool {
        self.hyper.optimizer.average_decay.is_some()
    }
}

/// The hyperparameters that an optimiser step is compiled for. The first step of a run sets the average to the weights,
/// as PyTorch's `AveragedModel` does.
fn settings(hyper: &Hyperparameters, stored: Shape, step: u64, accumulation: Option<Accumulation>) -> TrainSettings {
    let average_decay = hyper.optimizer.average_decay.map(|decay| if step == 0 { 0.0 } else { decay });
    // Micro-batches without an update are the same whatever the optimiser.
    let updates = accumulation.is_none_or(|it| it.micro_batch == MicroBatch::Last);
    let optimizer = if updates { Optimizer { average_decay, ..hyper.optimizer } } else { Optimizer::default() };
    TrainSettings {
        optimizer,
        label_smoothing: hyper.label_smoothing,
        augmentation: Some(hyper.augmentation).filter(|it| *it != Augmentation::default()),
        stage: stage_of(hyper, stored),
        weighted: hyper.weighted,
        accumulation,
    }
}

//! The epoch loop: trains and evaluates until the run is complete or interrupted.

use std::time::Instant;

use anyhow::{Result, bail};

use super::{Best, Chosen, Hyperparameters, Trainer};
use crate::ops::{Backend, Metrics, StepLoss};

/// The report after a step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Counted from 0.
    pub epoch: u32,
    /// Steps done in this epoch.
    pub step_in_epoch: u64,
    /// Metrics of the epoch so far, if they are available without waiting for the device.
    pub metrics: Option<Metrics>,
    /// Training speed since this process began the epoch, if the metrics are available.
    pub images_per_second: Option<f64>,
}

/// The report after an epoch, or after a partial epoch at the end of a run.
#[derive(Clone, Debug)]
pub struct EpochReport {
    /// Epochs begun, including the current one.
    pub epoch: u32,
    pub total_steps: u64,
    pub train: Metrics,
    /// `None` without a validation set.
    pub val: Option<Metrics>,
    pub test: Metrics,
    /// Whether it is the best so far by the monitored number.
    pub is_best: bool,
    /// Duration of training and evaluation.
    pub seconds: f64,
    /// Training speed, without evaluation.
    pub images_per_second: f64,
}

/// How [`Trainer::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// The observer asked to stop; the epoch or its evaluation is incomplete.
    Interrupted,
}

/// Why a run is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Epochs,
    MaxSteps,
    TargetAccuracy,
    /// No better test accuracy within the allowed number of epochs.
    Patience,
}

/// Receives the events of a run, for console output, files and signals. Every method does nothing by default, and `()`
/// observes nothing.
pub trait Observer<B: Backend> {
    /// Called before every step, and before every step of an evaluation; `true` interrupts the run.
    fn wants_to_stop(&self) -> bool {
        false
    }

    /// Called before the first step in which nothing is frozen, with its epoch, counted from 1.
    fn on_unfreeze(&mut self, _epoch: u32) {}

    /// Called after every step.
    fn on_step(&mut self, _report: &StepReport) {}

    /// Receives the losses of all steps of the current epoch that were not reported yet, if step losses are logged. The
    /// first is that of optimiser step `first_step`, counted from 0.
    ///
    /// # Errors
    /// An error ends the run.
    fn on_step_losses(&mut self, _first_step: u64, _losses: &[StepLoss]) -> Result<()> {
        Ok(())
    }

    /// Called after every step but the last of an epoch; `true` asks for [`Self::on_save`].
    fn wants_to_save(&self, _total_steps: u64) -> bool {
        false
    }

    /// Called between two steps of an epoch, to save the state.
    ///
    /// # Errors
    /// An error ends the run.
    fn on_save(&mut self, _trainer: &mut Trainer<B>) -> Result<()> {
        Ok(())
    }

    /// Called after the last step of an epoch, before the evaluation, so that the epoch can be saved first.
    ///
    /// # Errors
    /// An error ends the run.
    fn on_evaluation(&mut self, _trainer: &mut Trainer<B>) -> Result<()> {
        Ok(())
    }

    /// Called after the evaluation.
    ///
    /// # Errors
    /// An error, such as that of a failed save, ends the run.
    fn on_epoch(&mut self, _trainer: &mut Trainer<B>, _report: &EpochReport) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend> Observer<B> for () {}

impl<B: Backend> Trainer<B> {
    /// Trains from the current position until the run ends or the observer asks to stop.
    ///
    /// # Errors
    /// Those of the device and the observer, and a loss that became NaN or infinite, with its step.
    pub fn run(&mut self, observer: &mut impl Observer<B>) -> Result<Outcome> {
        if self.hyper.log_steps {
            self.backend.log_steps(self.batches_per_epoch() as usize)?;
        }
        while self.ending().is_none() {
            if self.epoch(observer)? == Outcome::Interrupted {
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Finished)
    }

    fn epoch(&mut self, observer: &mut impl Observer<B>) -> Result<Outcome> {
        let (start, earlier_seconds) = (Instant::now(), self.earlier_seconds);
        if self.train_epoch(start, observer)? == Outcome::Interrupted {
            return Ok(Outcome::Interrupted);
        }
        let train = self.backend.read_metrics()?;
        self.check_finite(Some(train))?;
        self.evaluation_pending = true;
        observer.on_evaluation(self)?;
        let Some((val, test)) = self.evaluate_unless(|| observer.wants_to_stop())? else {
            return Ok(Outcome::Interrupted);
        };
        for (name, metrics) in [("validation", val), ("test", Some(test))] {
            if let Some(loss) = metrics.map(|metrics| metrics.loss()).filter(|loss| !loss.is_finite()) {
                bail!("the {name} loss is {loss} after {} steps; {REMEDY}", self.position.total_steps);
            }
        }
        let epoch = self.position.epoch + 1;
        let is_whole = self.position.step_in_epoch == self.steps_per_epoch();
        let report = EpochReport {
            epoch,
            total_steps: self.position.total_steps,
            train,
            val,
            test,
            is_best: self.choose(epoch, val, test, is_whole),
            seconds: earlier_seconds + start.elapsed().as_secs_f64(),
            // A clock may be too coarse for a short epoch.
            images_per_second: train.samples as f64 / self.earlier_seconds.max(1e-9),
        };
        self.evaluation_pending = false;
        if is_whole {
            self.position.epoch += 1;
            self.position.step_in_epoch = 0;
            self.earlier_seconds = 0.0;
        }
        let test_accuracy = report.test.accuracy();
        if is_whole && self.best.is_none_or(|best| test_accuracy > best.test_accuracy) {
            self.best = Some(Best { test_accuracy, epoch: report.epoch });
        }
        observer.on_epoch(self, &report)?;
        Ok(Outcome::Finished)
    }

    /// Whether an evaluation is the best so far by the monitored number; if so, it is remembered. One within an epoch is
    /// only the best as long as there is no other, and is not remembered: a resumed run evaluates that epoch again.
    fn choose(&mut self, epoch: u32, val: Option<Metrics>, test: Metrics, is_whole: bool) -> bool {
        let Some((monitor, value)) = self.hyper.monitor.and_then(|it| Some((it, it.value(val, test)?))) else {
            return false;
        };
        let is_best = self.chosen.is_none_or(|chosen| is_whole && monitor.is_better(value, chosen.value));
        if is_best && is_whole {
            self.chosen = Some(Chosen { value, epoch });
        }
        is_best
    }

    /// Runs the remaining steps of the current epoch.
    fn train_epoch(&mut self, start: Instant, observer: &mut impl Observer<B>) -> Result<Outcome> {
        let earlier_seconds = self.earlier_seconds;
        if self.unfreeze_if_due() {
            observer.on_unfreeze(self.position.epoch + 1);
        }
        self.begin_epoch()?;
        let begun = self.position.step_in_epoch * self.images_per_step() as u64;
        let steps = self.steps_per_epoch();
        let mut reported = self.position.total_steps;
        let mut outcome = Outcome::Finished;
        while self.position.step_in_epoch < steps && !self.reached_max_steps() {
            if observer.wants_to_stop() {
                outcome = Outcome::Interrupted;
                break;
            }
            self.step()?;
            let metrics = self.backend.peek_metrics();
            if let Err(error) = self.check_finite(metrics) {
                self.report_losses(&mut reported, observer)?; // they show how the run diverged
                return Err(error);
            }
            let rate = |done: Metrics| (done.samples - begun.min(done.samples)) as f64 / start.elapsed().as_secs_f64();
            observer.on_step(&StepReport {
                epoch: self.position.epoch,
                step_in_epoch: self.position.step_in_epoch,
                metrics,
                images_per_second: metrics.map(rate),
            });
            if self.position.step_in_epoch < steps && observer.wants_to_save(self.position.total_steps) {
                self.report_losses(&mut reported, observer)?;
                let metrics = self.backend.read_metrics()?;
                self.check_finite(Some(metrics))?;
                self.earlier_seconds = earlier_seconds + start.elapsed().as_secs_f64();
                observer.on_save(self)?;
            }
        }
        self.report_losses(&mut reported, observer)?;
        // Includes the training on the device, which reporting the metrics has waited for.
        self.backend.read_metrics()?;
        self.earlier_seconds = earlier_seconds + start.elapsed().as_secs_f64();
        Ok(outcome)
    }

    /// Reports the losses of the steps from `reported` on, which becomes the next step.
    fn report_losses(&mut self, reported: &mut u64, observer: &mut impl Observer<B>) -> Result<()> {
        let losses = self.take_step_losses(*reported)?;
        observer.on_step_losses(*reported, &losses)?;
        *reported = self.position.total_steps;
        Ok(())
    }

    /// Why the run is complete; `None` if it is not.
    pub fn ending(&self) -> Option<Ending> {
        if self.evaluation_pending && self.reached_end_of_steps() {
            return None;
        }
        let Hyperparameters { epochs, target_accuracy, patience, .. } = self.hyper;
        let reached = |target| self.best.is_some_and(|best| best.test_accuracy >= target);
        let best_epoch = match self.hyper.monitor {
            Some(_) => self.chosen.map(|chosen| chosen.epoch),
            None => self.best.map(|best| best.epoch),
        };
        let is_exhausted = |patience| best_epoch.is_some_and(|best| self.position.epoch >= best + patience);
        let endings = [
            (target_accuracy.is_some_and(reached), Ending::TargetAccuracy),
            (self.position.epoch >= epochs, Ending::Epochs),
            (self.reached_max_steps(), Ending::MaxSteps),
            (patience.is_some_and(is_exhausted), Ending::Patience),
        ];
        endings.into_iter().find_map(|(applies, ending)| applies.then_some(ending))
    }

    /// Whether no step precedes the pending evaluation.
    fn reached_end_of_steps(&self) -> bool {
        self.position.step_in_epoch == self.steps_per_epoch() || self.reached_max_steps()
    }

    /// The optimiser steps of the whole run, if it does not end early.
    pub fn steps_in_run(&self) -> u64 {
        let all = u64::from(self.hyper.epochs) * self.steps_per_epoch();
        self.hyper.max_steps.map_or(all, |max| max.min(all))
    }

    fn reached_max_steps(&self) -> bool {
        self.hyper.max_steps.is_some_and(|max| self.position.total_steps >= max)
    }

    /// Fails if a loss of this epoch was NaN or infinite.
    fn check_finite(&self, metrics: Option<Metrics>) -> Result<()> {
        let Some((metrics, bad)) = metrics.and_then(|metrics| Some((metrics, metrics.first_bad_step?))) else {
            return Ok(());
        };
        let epoch_begin = self.position.total_steps - self.position.step_in_epoch;
        bail!(
            "the loss became {} at step {} (counted from 0; in epoch {}); {REMEDY}{}",
            metrics.loss_sum,
            epoch_begin + bad / self.hyper.accumulated() as u64,
            self.position.epoch + 1,
            if self.hyper.weighted { ", or a batch had only labels of weight 0 (--class-weights)" } else { "" }
        )
    }
}

const REMEDY: &str = "training has diverged: try a smaller --lr";

//! The observer of a training run: it prints progress, saves files and stops the run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use tracing::{debug, info, warn};

use super::display::Display;
use super::outputs::Outputs;
use super::report::write_batch;
use super::signals::{begin_last_save, begin_report, begin_run};
use crate::checkpoint::RunIdentity;
use crate::data::{Dataset, counted};
use crate::ops::{Backend, Normalise, StepLoss};
use crate::report::{EpochRecord, Record, StepRecord, best_epoch, loss, percent};
use crate::settings::{RunConfig, SaveEvery};
use crate::train::{Ending, EpochReport, FirstBatch, Monitor, Observer, Position, StepReport, Trainer};

/// An epoch is saved before its evaluation unless the last evaluation was shorter than the first of these, and the last
/// save is more recent than the second: another save follows the evaluation, and would have to wait for this one.
const SHORT_EVALUATION: Duration = Duration::from_secs(1);
const RECENT_SAVE: Duration = Duration::from_secs(5);

/// Prints the progress of a run, saves its files, and stops it on a signal or a failed save.
pub struct RunObserver {
    stop: Arc<AtomicBool>,
    outputs: Outputs,
    identity: RunIdentity,
    /// The test accuracy that the recipe is expected to reach.
    expected_accuracy: Option<f64>,
    monitor: Option<Monitor>,
    display: Display,
    save_every: Option<SaveEvery>,
    last_save: Instant,
    /// The error of a save that is to be repeated.
    failure: Option<Error>,
    evaluation_begun: Instant,
    /// Duration of the last evaluation; `None` before the first.
    evaluation: Option<Duration>,
}

impl RunObserver {
    pub fn new(
        outputs: Outputs,
        identity: RunIdentity,
        config: &RunConfig,
        display: Display,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            stop,
            outputs,
            identity,
            expected_accuracy: config.record.expected_accuracy,
            monitor: config.settings.schedule.monitor,
            display,
            save_every: config.settings.output.save_every,
            last_save: now,
            failure: None,
            evaluation_begun: now,
            evaluation: None,
        }
    }

    /// Starts to save the current state in the background. If the previous save failed, the run stops and repeats it.
    fn save<B: Backend>(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        if let Err(error) = self.outputs.finish() {
            self.failure = Some(error);
            return Ok(());
        }
        self.last_save = Instant::now();
        let state = trainer.state()?;
        self.outputs.save(&trainer.network, &self.identity, state)
    }

    /// Like [`Self::save`], after the evaluation of an epoch.
    fn save_evaluated<B: Backend>(&mut self, trainer: &mut Trainer<B>, report: &EpochReport) -> Result<()> {
        if let Err(error) = self.outputs.finish() {
            self.failure = Some(error);
        }
        let state = trainer.state()?;
        self.outputs.keep_epoch(report.epoch, report.is_best, &state);
        if self.failure.is_some() {
            return Ok(());
        }
        self.last_save = Instant::now();
        self.outputs.save(&trainer.network, &self.identity, state)
    }

    /// Saves the state before the first step of a new run, so that the run can be resumed from its beginning, and waits
    /// for the save, so that a disk that cannot be written to ends the run before it starts. From now on, a signal asks
    /// the run to save and stop.
    pub fn begin<B: Backend>(&mut self, trainer: &mut Trainer<B>, is_new: bool) -> Result<()> {
        begin_run();
        if is_new {
            self.save(trainer)?;
            self.outputs.finish()?;
        }
        Ok(())
    }

    /// Waits for pending writes, and repeats the last save if it failed. Returns the error of that save.
    fn finish_saves<B: Backend>(&mut self, trainer: &mut Trainer<B>, save_now: bool) -> Result<Option<Error>> {
        begin_last_save();
        let failure = self.failure.take().or(self.outputs.finish().err());
        if let Some(error) = &failure {
            warn!("{error:#}; trying to save again");
        }
        if save_now || failure.is_some() {
            let state = trainer.state()?;
            self.outputs.save(&trainer.network, &self.identity, state)?;
            self.outputs.finish()?;
        }
        Ok(failure)
    }

    /// Waits for pending writes, then logs where the results are and, if the run did not complete all epochs, why it
    /// ended.
    pub fn finish<B: Backend>(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        self.display.close();
        self.finish_saves(trainer, false)?;
        let position = trainer.position();
        match trainer.ending() {
            Some(Ending::MaxSteps) => {
                let (steps, folder) = (counted(position.total_steps as usize, "step"), quoted(self.outputs.folder()));
                info!(
                    "stopped after {steps} (--max-steps); continue with: cnn-cuda train --resume {folder} --no-max-steps"
                );
            }
            Some(ending @ (Ending::TargetAccuracy | Ending::Patience)) => {
                let seconds = self.outputs.metrics.epochs().iter().map(|epoch| epoch.seconds).sum::<f64>();
                let (done, why) = (progress_made(position), ended_by(ending));
                info!("ended after {done} and {seconds:.2} s of training and evaluation{why}");
            }
            Some(Ending::Epochs) | None => {}
        }
        self.log_best();
        if let (Some(expected), Some(last)) = (self.expected_accuracy, self.outputs.metrics.epochs().last()) {
            let accuracy = 100.0 * last.test_accuracy;
            info!("test accuracy {accuracy:.2}%; the recipe's full run reaches at least {:.2}%", 100.0 * expected);
        }
        info!("saved {} and {}", self.outputs.folder().join(Outputs::WEIGHTS).display(), Outputs::CHECKPOINT);
        Ok(())
    }

    /// Writes the picture of the first training batch. Without it the run continues, with a warning.
    pub fn write_batch(&self, batch: Result<FirstBatch>, normalise: &Normalise, labels: &[u32], classes: &[String]) {
        let folder = self.outputs.folder();
        if let Err(error) = batch.and_then(|batch| write_batch(folder, &batch, normalise, labels, classes)) {
            warn!("{error:#}; the run continues without {}", Outputs::TRAIN_BATCH);
        }
    }

    /// Makes the report of a run that is complete and saved. A failure is a warning, because the run needs no report.
    pub fn report(&self, write: impl FnOnce(&Path) -> Result<()>) {
        let folder = self.outputs.folder();
        if !begin_report() {
            info!("interrupted; cnn-cuda report --run {} makes the report", quoted(folder));
            return;
        }
        match self.outputs.check_folder().and_then(|()| write(folder)) {
            Ok(()) => info!("report: {}", folder.join(Outputs::REPORT).display()),
            Err(error) => {
                let folder = quoted(folder);
                warn!("the run is saved, but has no report: {error:#}; to try again: cnn-cuda report --run {folder}");
            }
        }
    }

    /// Logs which epoch is the best, and how it was chosen.
    fn log_best(&self) {
        let epochs = self.outputs.metrics.epochs();
        let Some((monitor, best)) = self.monitor.and_then(|it| Some((it, best_epoch(&epochs, it)?))) else { return };
        let (value, accuracy) = (best.monitored(monitor).unwrap_or(f64::NAN), percent(best.test_accuracy));
        let value = if monitor.is_loss() { loss(value) } else { percent(value) };
        let (epoch, words) = (best.epoch, monitor.words());
        let by_test = match monitor.needs_validation() {
            true => "",
            false => "; it was chosen by the test set, so this accuracy is better than on new images",
        };
        let kept =
            if self.outputs.keeps_best() { "" } else { "; as --keep says, the weights are those of the last epoch" };
        info!("the best epoch is {epoch}, by its {words} of {value}: test accuracy {accuracy}{by_test}{kept}");
    }

    /// Saves a run that stopped early, and logs how to resume it. If the previous save failed, this one replaces it.
    ///
    /// # Errors
    /// The state cannot be saved, or it was a failed save and not a signal that stopped the run.
    pub fn interrupted<B: Backend>(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        self.display.close();
        let failure = self.finish_saves(trainer, true)?;
        let (folder, steps) = (quoted(self.outputs.folder()), counted(trainer.position().total_steps as usize, "step"));
        let saved = format!("after {steps} and saved; resume with: cnn-cuda train --resume {folder}");
        if let (Some(error), false) = (failure, self.stop.load(Ordering::Relaxed)) {
            return Err(error.context(format!("a save failed, but a second attempt succeeded: the run ended {saved}")));
        }
        warn!("interrupted {saved}");
        Ok(())
    }

    /// Saves the metrics of a run that failed, and returns a message that names its last checkpoint.
    pub fn failed(&mut self) -> String {
        self.display.close();
        // Finish the pending save first: it may write the last good checkpoint, and it writes older metrics.
        if let Err(error) = self.outputs.finish() {
            warn!("{error:#}");
        }
        if self.outputs.check_folder().is_err() {
            let shown = self.outputs.folder().display();
            return format!("training stopped; the last checkpoint is in the folder {shown} that was moved or removed");
        }
        if let Err(error) = self.outputs.save_metrics() {
            warn!("{error:#}");
        }
        let checkpoint = self.outputs.folder().join(Outputs::CHECKPOINT);
        match checkpoint.is_file() {
            true => format!("training stopped; the last good checkpoint is {}", checkpoint.display()),
            false => format!("training stopped; there is no checkpoint: {} is missing", checkpoint.display()),
        }
    }
}

/// The identity of a run, which its checkpoint stores.
///
/// # Errors
/// A setting that a configuration cannot contain.
pub fn identity(config: &RunConfig, dataset: &Dataset) -> Result<RunIdentity> {
    Ok(RunIdentity {
        train_images: dataset.train.count(),
        data_fingerprint: dataset.fingerprint(),
        test_images: dataset.test.count(),
        test_fingerprint: dataset.test_fingerprint(),
        val_images: dataset.val.count(),
        val_fingerprint: dataset.val_fingerprint(),
        ..identity_without_data(config)?
    })
}

/// The part of a run's identity that its configuration contains.
///
/// # Errors
/// Those of [`identity`].
pub fn identity_without_data(config: &RunConfig) -> Result<RunIdentity> {
    let hyper = config.hyperparameters();
    Ok(RunIdentity {
        model: config.model().into(),
        // The files of a folder may move, but their fingerprint stays the same.
        dataset: if config.has_pictures() { "pictures".into() } else { config.dataset().into() },
        seed: hyper.seed,
        batch_size: hyper.batch_size,
        shuffle: hyper.shuffle,
        settings: config.fixed_settings()?,
        ..RunIdentity::default()
    })
}

/// Why a run ended, as the end of a log message; empty if it completed all epochs.
pub fn ended_by(ending: Ending) -> &'static str {
    match ending {
        Ending::Epochs => "",
        Ending::MaxSteps => ": reached --max-steps",
        Ending::TargetAccuracy => ": reached --target-accuracy",
        Ending::Patience => ": reached --patience without a better epoch",
    }
}

/// The completed epochs and the steps of a run, for messages.
pub fn progress_made(position: Position) -> String {
    let steps = counted(position.total_steps as usize, "step");
    match position.epoch {
        0 => steps,
        epochs => format!("{} ({steps})", counted(epochs as usize, "epoch")),
    }
}

/// Quotes a path for a shell, if necessary.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

impl<B: Backend> Observer<B> for RunObserver {
    /// Also true after a failed save, because further steps might be lost too; [`RunObserver::interrupted`] reports it.
    fn wants_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.failure.is_some() || self.outputs.save_failed()
    }

    fn on_unfreeze(&mut self, epoch: u32) {
        info!("epoch {epoch}: nothing is frozen from now on");
    }

    fn on_step(&mut self, report: &StepReport) {
        self.display.step(report);
    }

    fn on_step_losses(&mut self, first_step: u64, losses: &[StepLoss]) -> Result<()> {
        for (step, loss) in (first_step..).zip(losses) {
            let (loss, accuracy) = (f64::from(loss.loss), f64::from(loss.accuracy));
            self.outputs.metrics.push(Record::Step(StepRecord { step, loss, accuracy }));
        }
        Ok(())
    }

    fn wants_to_save(&self, total_steps: u64) -> bool {
        self.save_every.is_some_and(|every| every.is_due(total_steps, self.last_save.elapsed()))
    }

    fn on_save(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        self.save(trainer)
    }

    fn on_evaluation(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        self.display.evaluating();
        let is_long = self.evaluation.is_none_or(|last| last >= SHORT_EVALUATION);
        if is_long || self.last_save.elapsed() >= RECENT_SAVE {
            self.save(trainer)?;
        }
        self.evaluation_begun = Instant::now();
        Ok(())
    }

    fn on_epoch(&mut self, trainer: &mut Trainer<B>, report: &EpochReport) -> Result<()> {
        self.display.hide_bar();
        let record = EpochRecord {
            epoch: report.epoch,
            steps: report.total_steps,
            train_loss: report.train.loss(),
            train_accuracy: report.train.accuracy(),
            val_loss: report.val.map(|val| val.loss()),
            val_accuracy: report.val.map(|val| val.accuracy()),
            test_loss: report.test.loss(),
            test_accuracy: report.test.accuracy(),
            seconds: report.seconds,
            images_per_second: report.images_per_second,
        };
        self.evaluation = Some(self.evaluation_begun.elapsed());
        self.outputs.metrics.push(Record::Epoch(record.clone()));
        self.save_evaluated(trainer, report)?;
        if let Some([_, bytes]) = trainer.backend.device_memory() {
            debug!("device memory in use after epoch {}: {bytes} bytes", report.epoch);
        }
        self.display.epoch(&record, trainer);
        Ok(())
    }
}

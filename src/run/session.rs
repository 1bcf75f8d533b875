//! What listens to a training run: it prints, saves and asks it to end.

use std::io::{Stdout, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{debug, info, warn};

use super::outputs::Outputs;
use crate::checkpoint::RunIdentity;
use crate::data::Dataset;
use crate::ops::{Backend, StepLoss};
use crate::report::{EpochRecord, Progress, Record, StepRecord, Table};
use crate::settings::RunConfig;
use crate::train::{Ending, EpochReport, Observer, StepReport, Trainer};

/// Pause between two drawings of the progress bar.
const REDRAW: Duration = Duration::from_millis(100);

/// What listens to a run.
pub struct Run {
    stop: Arc<AtomicBool>,
    outputs: Outputs,
    identity: RunIdentity,
    epochs: u32,
    /// The accuracy that a recipe promises.
    expected_accuracy: Option<f64>,
    steps_per_epoch: u64,
    quiet: bool,
    /// None where it is not wanted, or its reader went away.
    table: Option<Table<Stdout>>,
    progress: Option<Progress>,
    drawn: Instant,
}

impl Run {
    pub fn new(
        outputs: Outputs,
        identity: RunIdentity,
        config: &RunConfig,
        quiet: bool,
        steps_per_epoch: u64,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let drawn = Instant::now();
        let (epochs, expected_accuracy) = (config.hyperparameters().epochs, config.record.expected_accuracy);
        let table = if quiet { None } else { Table::new(stdout()).ok() };
        Self {
            stop,
            outputs,
            identity,
            epochs,
            expected_accuracy,
            steps_per_epoch,
            quiet,
            table,
            progress: None,
            drawn,
        }
    }

    /// Begins to save the current state; it is written while the run goes on. Returns the error of the previous save, if it
    /// failed.
    fn save<B: Backend>(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        let state = trainer.state()?;
        self.outputs.save(&trainer.network, &self.identity, state)
    }

    /// Saves the state before the first step, so that a run can be resumed from its very beginning, and a disk that takes
    /// no files ends it there.
    pub fn begin<B: Backend>(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        self.save(trainer)?;
        self.outputs.finish()
    }

    /// Waits for what is still being written, tells why the run ended, unless it simply did all of its epochs, and where
    /// the results are.
    pub fn finish(&mut self, ending: Option<Ending>) -> Result<()> {
        self.outputs.finish()?;
        if let Some(ending @ (Ending::TargetAccuracy | Ending::Patience)) = ending {
            let epochs = self.outputs.metrics.epochs();
            let (count, seconds) = (epochs.len(), epochs.iter().map(|epoch| epoch.seconds).sum::<f64>());
            info!("ended after {count} epochs and {seconds:.2} s of training and evaluation{}", ended_by(ending));
        }
        if let (Some(expected), Some(last)) = (self.expected_accuracy, self.outputs.metrics.epochs().last()) {
            let accuracy = 100.0 * last.test_accuracy;
            info!("test accuracy {accuracy:.2}%; the recipe's whole run reaches {:.2}% or more", 100.0 * expected);
        }
        let folder = self.outputs.folder().display();
        info!("saved {folder}/{} and {}", Outputs::WEIGHTS, Outputs::CHECKPOINT);
        Ok(())
    }

    /// Saves a run that stopped before its end and says how to go on. A save that failed before is tried once more, with
    /// the state as it is now.
    ///
    /// # Errors
    /// Where the state cannot be saved; also where nobody asked the run to stop, so that it was the failed save that did.
    pub fn interrupted<B: Backend>(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        self.progress = None;
        let before = self.outputs.finish();
        if let Err(error) = &before {
            warn!("{error:#}; saving once more");
        }
        self.save(trainer)?;
        self.outputs.finish()?;
        let (folder, steps) = (quoted(self.outputs.folder()), trainer.position().total_steps);
        let saved = format!("after {steps} steps and saved; go on with: cnn-cuda train --resume {folder}");
        if !self.stop.load(Ordering::Relaxed) {
            before.with_context(|| format!("a save failed and was repeated: the run ended {saved}"))?;
        }
        warn!("interrupted {saved}");
        Ok(())
    }

    /// Keeps what is known of a run that failed, and tells what is left of it.
    pub fn failed(&mut self) -> String {
        self.progress = None;
        // What is being written first: it may be the last good checkpoint, and its metrics are older.
        if let Err(error) = self.outputs.finish() {
            warn!("{error:#}");
        }
        if let Err(error) = self.outputs.metrics.save() {
            warn!("{error:#}");
        }
        let checkpoint = self.outputs.folder().join(Outputs::CHECKPOINT);
        match checkpoint.is_file() {
            true => format!("training stopped; the last good checkpoint is {}", checkpoint.display()),
            false => format!("training stopped; there is no checkpoint: {} is gone", checkpoint.display()),
        }
    }
}

/// What a run's checkpoint belongs to.
pub fn identity(config: &RunConfig, dataset: &Dataset) -> RunIdentity {
    let hyper = config.hyperparameters();
    RunIdentity {
        model: config.model().into(),
        // The files of a folder may move; their fingerprint stays.
        dataset: if config.has_pictures() { "pictures".into() } else { config.dataset().into() },
        train_images: dataset.train.count(),
        data_fingerprint: dataset.fingerprint(),
        seed: hyper.seed,
        batch_size: hyper.batch_size,
        shuffle: hyper.shuffle,
    }
}

/// What ended a run, as the end of a sentence.
pub fn ended_by(ending: Ending) -> &'static str {
    match ending {
        Ending::Epochs => "",
        Ending::MaxSteps => ": --max-steps is reached",
        Ending::TargetAccuracy => ": --target-accuracy is reached",
        Ending::Patience => ": --patience is at its end, no epoch was better",
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

impl<B: Backend> Observer<B> for Run {
    /// Also where the last save failed, which [`Run::interrupted`] then reports: more steps would be lost with the others.
    fn wants_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.outputs.save_failed()
    }

    fn on_step(&mut self, report: &StepReport) {
        if self.quiet {
            return;
        }
        let new = || Progress::new(self.steps_per_epoch, report.epoch + 1, self.epochs, self.quiet);
        let progress = self.progress.get_or_insert_with(new);
        if self.drawn.elapsed() >= REDRAW {
            self.drawn = Instant::now();
            let loss = report.metrics.map(|metrics| metrics.loss());
            progress.tick(report.step_in_epoch, loss, report.images_per_second);
        }
    }

    fn on_step_losses(&mut self, first_step: u64, losses: &[StepLoss]) -> Result<()> {
        for (step, loss) in (first_step..).zip(losses) {
            let (loss, accuracy) = (f64::from(loss.loss), f64::from(loss.accuracy));
            self.outputs.metrics.push(Record::Step(StepRecord { step, loss, accuracy }));
        }
        Ok(())
    }

    fn on_evaluation(&mut self) {
        if let Some(progress) = &self.progress {
            progress.message("evaluating");
        }
    }

    fn on_epoch(&mut self, trainer: &mut Trainer<B>, report: &EpochReport) -> Result<()> {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
        let record = EpochRecord {
            epoch: report.epoch,
            steps: report.total_steps,
            train_loss: report.train.loss(),
            train_accuracy: report.train.accuracy(),
            test_loss: report.test.loss(),
            test_accuracy: report.test.accuracy(),
            seconds: report.seconds,
            images_per_second: report.images_per_second,
        };
        self.outputs.metrics.push(Record::Epoch(record.clone()));
        self.save(trainer)?;
        if let Some([_, bytes]) = trainer.backend.device_memory() {
            debug!("device memory in use after epoch {}: {bytes} bytes", report.epoch);
        }
        // A reader that went away (`| head`) must not end the run.
        if let Some(Err(error)) = self.table.as_mut().map(|table| table.row(&record)) {
            warn!("{error:#}; the run goes on");
            self.table = None;
        }
        Ok(())
    }
}

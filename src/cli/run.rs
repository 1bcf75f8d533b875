//! A training run's audience: console, files and signals.

use std::io::{Stdout, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::config::Config;
use super::outputs::Outputs;
use crate::checkpoint::RunIdentity;
use crate::ops::{Backend, StepLoss};
use crate::report::{EpochRecord, Progress, Record, StepRecord, Table};
use crate::train::{EpochReport, Observer, StepReport, Trainer};

/// Set by Ctrl-C and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// Pause between two drawings of the progress bar.
const REDRAW: Duration = Duration::from_millis(100);

/// From here on Ctrl-C and SIGTERM end the run after its current step; a second one ends the process at once.
pub fn install_signal_handler() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// What listens to a run.
pub struct Run {
    outputs: Outputs,
    identity: RunIdentity,
    epochs: u32,
    steps_per_epoch: u64,
    quiet: bool,
    /// None where it is not wanted, or its reader went away.
    table: Option<Table<Stdout>>,
    progress: Option<Progress>,
    drawn: Instant,
}

impl Run {
    pub fn new(outputs: Outputs, identity: RunIdentity, config: &Config, quiet: bool, steps_per_epoch: u64) -> Self {
        let drawn = Instant::now();
        let epochs = config.epochs;
        let table = if quiet { None } else { Table::new(stdout()).ok() };
        Self { outputs, identity, epochs, steps_per_epoch, quiet, table, progress: None, drawn }
    }

    /// Tells where the results are.
    pub fn finish(&mut self) {
        let folder = self.outputs.folder().display();
        info!("saved {folder}/{} and {}", Outputs::WEIGHTS, Outputs::CHECKPOINT);
    }

    /// Saves a run that was interrupted and tells how to go on.
    pub fn interrupted<B: Backend>(&mut self, trainer: &mut Trainer<B>) -> Result<()> {
        self.progress = None;
        let state = trainer.state()?;
        self.outputs.save(&trainer.network, &self.identity, &state)?;
        let (folder, steps) = (self.outputs.folder().display(), state.position.total_steps);
        warn!("interrupted after {steps} steps and saved; go on with: cnn-cuda train --resume {folder}");
        Ok(())
    }

    /// What is left when the run fails.
    pub fn how_to_go_on(&self) -> String {
        let checkpoint = self.outputs.folder().join(Outputs::CHECKPOINT);
        match checkpoint.exists() {
            true => format!("training stopped; the last good checkpoint is {}", checkpoint.display()),
            false => format!("training stopped before its first checkpoint in {}", self.outputs.folder().display()),
        }
    }
}

impl<B: Backend> Observer<B> for Run {
    fn wants_to_stop(&self) -> bool {
        STOP.load(Ordering::Relaxed)
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
            progress.tick(report.step_in_epoch, loss, Some(report.images_per_second));
        }
    }

    fn on_step_losses(&mut self, first_step: u64, losses: &[StepLoss]) -> Result<()> {
        for (step, loss) in (first_step..).zip(losses) {
            let (loss, accuracy) = (f64::from(loss.loss), f64::from(loss.accuracy));
            self.outputs.metrics.push(Record::Step(StepRecord { step, loss, accuracy }));
        }
        Ok(())
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
        let state = trainer.state()?;
        self.outputs.save(&trainer.network, &self.identity, &state)?;
        // A reader that went away (`| head`) must not end the run.
        if let Some(Err(error)) = self.table.as_mut().map(|table| table.row(&record)) {
            warn!("{error:#}; the run goes on");
            self.table = None;
        }
        Ok(())
    }
}

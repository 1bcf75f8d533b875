//! A training run's audience: console, files and signals.

use std::io::{Stdout, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{debug, info, warn};

use super::config::Config;
use super::outputs::Outputs;
use crate::checkpoint::RunIdentity;
use crate::ops::{Backend, StepLoss};
use crate::report::{EpochRecord, Progress, Record, StepRecord, Table};
use crate::train::{Ending, EpochReport, Observer, StepReport, Trainer};

/// Pause between two drawings of the progress bar.
const REDRAW: Duration = Duration::from_millis(100);

/// From here on Ctrl-C, SIGTERM and a lost terminal end the run after the step it is at: they set the flag. A second one
/// ends the process at once. What this process was started to ignore (`nohup`, a script's background jobs) stays so.
pub fn install_signal_handlers() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = vec![SIGINT, SIGTERM];
    #[cfg(unix)]
    signals.push(signal_hook::consts::SIGHUP);
    for signal in signals.into_iter().filter(|&signal| !is_ignored(signal)) {
        // In this order, so that the second signal finds the flag set by the first.
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .with_context(|| format!("cannot listen for signal {signal}"))?;
    }
    Ok(stop)
}

/// Whether this process was started with a signal ignored, where the system tells.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Exit code of a run that was interrupted and can be resumed, as shells count Ctrl-C.
pub const INTERRUPTED: u8 = 130;

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
        config: &Config,
        quiet: bool,
        steps_per_epoch: u64,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let drawn = Instant::now();
        let (epochs, expected_accuracy) = (config.epochs, config.expected_accuracy);
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
            info!("test accuracy {accuracy:.2}%; the recipe's whole run is to reach {:.2}%", 100.0 * expected);
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
        if let Some(bytes) = trainer.backend.device_memory_in_use() {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::cli::train::TrainArgs;
    use crate::cli::{build_network, find_model};
    use crate::cpu::Cpu;
    use crate::data;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        train: TrainArgs,
    }

    /// A run whose last save fails, and whose next would not: two steps later.
    fn run_after_failed_save(folder: &Path, stop: bool) -> (Run, Trainer<Cpu>) {
        let out = folder.join("run");
        let flags = ["train", "--model", "lenet5", "--dataset", "digits", "--max-steps", "2", "--quiet", "--out"];
        let args = Flags::parse_from(flags.into_iter().chain(out.to_str())).train;
        let config = Config::new(&args).expect("a configuration");
        let dataset = data::load("digits", &config.load_options()).expect("digits");
        let identity = RunIdentity {
            model: config.model.clone(),
            dataset: config.dataset.clone(),
            train_images: dataset.train.count(),
            data_fingerprint: dataset.fingerprint(),
            seed: config.seed,
            batch_size: config.batch_size,
            shuffle: config.shuffle,
        };
        let model = find_model("lenet5").expect("a model");
        let network = build_network(model, dataset.shape, 10).expect("a network");
        let backend = Cpu::new(Some(2)).expect("two threads");
        let mut trainer = Trainer::new(backend, network, dataset, config.hyperparameters()).expect("a trainer");
        let outputs = Outputs::create(Some(&out), &config).expect("a folder");
        let mut run = Run::new(outputs, identity, &config, true, 1, Arc::new(AtomicBool::new(stop)));
        run.begin(&mut trainer).expect("saved");
        // No file takes the place of a folder.
        let weights = out.join(Outputs::WEIGHTS);
        fs::remove_file(&weights).and_then(|()| fs::create_dir(&weights)).expect("a folder");
        run.save(&mut trainer).expect("begun");
        let begun = Instant::now();
        while !run.outputs.save_failed() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the failure never shows");
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::remove_dir(&weights).expect("removed");
        trainer.run(&mut Silent).expect("two steps");
        (run, trainer)
    }

    /// What listens to nothing.
    struct Silent;

    impl<B: Backend> Observer<B> for Silent {
        fn wants_to_stop(&self) -> bool {
            false
        }

        fn on_step(&mut self, _report: &StepReport) {}

        fn on_step_losses(&mut self, _first_step: u64, _losses: &[StepLoss]) -> Result<()> {
            Ok(())
        }

        fn on_evaluation(&mut self) {}

        fn on_epoch(&mut self, _trainer: &mut Trainer<B>, _report: &EpochReport) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failed_save_is_repeated_with_the_state_of_now() {
        for stop in [true, false] {
            let folder = tempfile::tempdir().expect("a folder");
            let (mut run, mut trainer) = run_after_failed_save(folder.path(), stop);
            match run.interrupted(&mut trainer) {
                Ok(()) => assert!(stop, "nobody asked for the end, and the failed save is not mentioned"),
                Err(error) => {
                    assert!(!stop, "{error:#}");
                    let message = format!("{error:#}");
                    assert!(
                        message.contains("after 2 steps and saved") && message.contains("cannot write"),
                        "{message}"
                    );
                }
            }
            let path = run.outputs.folder().join(Outputs::CHECKPOINT);
            let saved = crate::checkpoint::load_state(&path, &trainer.network, &run.identity).expect("a checkpoint");
            assert_eq!(saved.position.total_steps, 2);
        }
    }
}

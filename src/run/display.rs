//! What a run shows while it trains: the table of epochs, and its progress as a bar, lines or the dashboard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::kept::title;
use super::suspend::handle_suspension;
use crate::checkpoint::RunIdentity;
use crate::ops::Backend;
use crate::report::stream::{RunStdout, Stderr};
use crate::report::{
    Dashboard, EpochRecord, LEAST_COLUMNS, LEAST_ROWS, Progress, ProgressLines, ProgressMode, RunFacts, RunState,
    Table, cover, fits_terminal,
};
use crate::settings::RunConfig;
use crate::train::{StepReport, Trainer};

/// Minimum time between two updates of what is shown.
const REDRAW: Duration = Duration::from_millis(100);
/// Time between two lines of `--progress plain`.
const LINE: Duration = Duration::from_secs(30);

pub struct Display {
    mode: ProgressMode,
    facts: Arc<RunFacts>,
    /// `None` with `--progress none`, or if stdout was closed.
    table: Option<Table<RunStdout>>,
    bar: Option<Progress>,
    lines: ProgressLines<Stderr>,
    dashboard: Option<Dashboard>,
    /// Steps done in the current epoch.
    step_in_epoch: u64,
    last_drawn: Instant,
}

impl Display {
    /// Prints the head of the table, and starts the dashboard if it is asked for. `records` are those of earlier epochs.
    pub fn new<B: Backend>(
        mode: ProgressMode,
        coloured: bool,
        config: &RunConfig,
        identity: &RunIdentity,
        trainer: &Trainer<B>,
        records: Vec<EpochRecord>,
    ) -> Self {
        let hyper = trainer.hyper();
        let facts = Arc::new(RunFacts {
            title: title(config),
            device: trainer.backend.info().name,
            epochs: hyper.epochs,
            steps_per_epoch: trainer.steps_per_epoch(),
            steps: trainer.steps_in_run(),
            images_per_step: hyper.batch_size * hyper.accumulated(),
            train_images: identity.train_images,
            learning_rate: hyper.learning_rate,
            monitor: config.settings.schedule.monitor,
        });
        let mode = mode.for_stderr();
        let table = if mode == ProgressMode::None { None } else { Table::new(RunStdout, identity.val_images > 0).ok() };
        let dashboard = (mode == ProgressMode::Dashboard).then(|| {
            let position = trainer.position();
            let state = RunState {
                facts: Arc::clone(&facts),
                epoch: position.epoch,
                step_in_epoch: position.step_in_epoch,
                memory: memory(trainer),
                records: Arc::new(records),
                ..RunState::default()
            };
            start_dashboard(state, coloured)
        });
        Self {
            mode,
            facts,
            table,
            bar: None,
            lines: ProgressLines::new(Stderr, LINE),
            dashboard: dashboard.flatten(),
            step_in_epoch: 0,
            last_drawn: Instant::now(),
        }
    }

    pub fn step(&mut self, report: &StepReport) {
        self.step_in_epoch = report.step_in_epoch;
        if self.mode.has_bars() {
            self.show_bar(report.epoch);
        }
        if self.last_drawn.elapsed() < REDRAW {
            return;
        }
        self.last_drawn = Instant::now();
        let loss = report.metrics.map(|metrics| metrics.loss());
        match self.mode {
            ProgressMode::Plain => {
                let RunFacts { epochs, steps_per_epoch, .. } = *self.facts;
                let steps = [report.step_in_epoch, steps_per_epoch];
                self.lines.step([report.epoch + 1, epochs], steps, [loss, report.images_per_second]);
            }
            ProgressMode::Bar | ProgressMode::Dashboard => {
                if let Some(bar) = &self.bar {
                    bar.tick(report.step_in_epoch, loss, report.images_per_second);
                }
                self.update(|state| {
                    let mean = report.metrics.map(|metrics| [metrics.loss(), metrics.accuracy()]);
                    state.step(report.epoch, report.step_in_epoch, mean);
                    state.images_per_second = report.images_per_second.or(state.images_per_second);
                });
            }
            ProgressMode::None => {}
        }
    }

    /// Creates the bar, unless the dashboard covers the terminal.
    fn show_bar(&mut self, epoch: u32) {
        if cover::is_on() {
            self.bar = None;
        } else {
            let RunFacts { epochs, steps_per_epoch, .. } = *self.facts;
            self.bar.get_or_insert_with(|| Progress::new(steps_per_epoch, epoch + 1, epochs));
        }
    }

    pub fn evaluating(&mut self) {
        if let Some(bar) = &self.bar {
            bar.message(self.step_in_epoch, "evaluating");
        }
        self.update(|state| (state.step_in_epoch, state.is_evaluating) = (self.step_in_epoch, true));
    }

    /// Shows the result of an epoch.
    pub fn epoch<B: Backend>(&mut self, record: &EpochRecord, trainer: &Trainer<B>) {
        self.hide_bar();
        self.lines.restart();
        self.update(|state| {
            state.evaluated(record.clone());
            state.memory = memory(trainer);
        });
        // A closed stdout (`| head`) must not end the run.
        if let Some(Err(error)) = self.table.as_mut().map(|table| table.row(record)) {
            warn!("{error:#}; the run continues without it");
            self.table = None;
        }
    }

    pub fn hide_bar(&mut self) {
        self.bar = None;
    }

    /// Ends the display: what follows is printed as usual.
    pub fn close(&mut self) {
        self.hide_bar();
        self.dashboard = None;
    }

    fn update(&self, change: impl FnOnce(&mut RunState)) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.update(change);
        }
    }
}

/// Starts the dashboard. The run continues without, if that is impossible.
fn start_dashboard(state: RunState, coloured: bool) -> Option<Dashboard> {
    if !fits_terminal() {
        info!("the dashboard needs {LEAST_COLUMNS} columns and {LEAST_ROWS} rows; until then, there is a bar");
    }
    let started = handle_suspension().and_then(|()| Ok(Dashboard::start(state, coloured)?));
    started.inspect_err(|error| warn!("there is no dashboard: {error:#}")).ok()
}

/// Used memory: of the CUDA device by all processes, or of this process.
fn memory<B: Backend>(trainer: &Trainer<B>) -> Option<(&'static str, u64)> {
    match trainer.backend.device_memory() {
        Some([_, bytes]) => Some(("device memory", bytes as u64)),
        None => resident_bytes().map(|bytes| ("memory", bytes)),
    }
}

/// The memory of this process, on Linux.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(1024 * kilobytes)
}

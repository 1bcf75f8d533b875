//! The files in a run's folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tracing::warn;

use super::display::title_of;
use super::folder::{FolderLock, create_run_folder, remove_leftovers};
use super::kept::{EpochWeights, Kept, check_best, epoch_file};
use super::signals::while_saving;
use crate::checkpoint::{RunIdentity, load_weights, save_described_weights, save_state};
use crate::files::{BackgroundWriter, write_atomically};
use crate::network::Network;
use crate::report::{MetricsLog, curves_svg};
use crate::settings::{self, RunConfig};
use crate::train::{Chosen, Position, TrainState};

/// The files of a run, whose folder is locked against other processes until this value is dropped.
pub struct Outputs {
    title: String,
    /// What files of weights say about themselves.
    description: String,
    kept: Kept,
    /// Weights of epochs that are not on disk yet, and how many of them the save in progress writes.
    evaluated: Vec<Arc<EpochWeights>>,
    submitted: usize,
    pub metrics: MetricsLog,
    /// The total steps of the weights that were saved last.
    saved_weights: Option<u64>,
    writer: BackgroundWriter,
    /// A pending write shares the lock.
    lock: Arc<FolderLock>,
}

impl Outputs {
    pub const CHECKPOINT: &str = "checkpoint.safetensors";
    pub const WEIGHTS: &str = "model.safetensors";
    /// The weights after the last step, where [`Self::WEIGHTS`] has those of the best epoch.
    pub const LAST: &str = "last.safetensors";
    pub const METRICS: &str = "metrics.jsonl";
    pub const CURVES: &str = "curves.svg";
    const ALL: [&str; 6] = [settings::FILE, Self::METRICS, Self::WEIGHTS, Self::LAST, Self::CHECKPOINT, Self::CURVES];

    /// The weights that `path`, the value of `flag`, means: a file, or those in a run's folder.
    pub fn weights_file(flag: &str, path: &Path) -> Result<PathBuf> {
        let (shown, weights) = (path.display(), path.join(Self::WEIGHTS));
        if weights.is_file() {
            return Ok(weights);
        }
        ensure!(
            !path.is_dir(),
            "{flag} {shown} is a folder without {}; a .safetensors file is expected",
            Self::WEIGHTS
        );
        ensure!(path.exists(), "{flag} {shown}: there is no such file");
        Ok(path.to_path_buf())
    }

    /// Locks the folder of a run to resume. Fails if the run has no checkpoint.
    pub fn lock(folder: &Path) -> Result<FolderLock> {
        let (shown, weights) = (folder.display(), folder.join(Self::WEIGHTS));
        let lock = FolderLock::acquire(folder)?;
        if folder.join(settings::FILE).is_file() && !folder.join(Self::CHECKPOINT).exists() {
            let init =
                if weights.is_file() { format!(", or one with --init {}", weights.display()) } else { String::new() };
            bail!(
                "--resume {shown}: the run has no {}, so it cannot be resumed; start a new run{init}",
                Self::CHECKPOINT
            );
        }
        Ok(lock)
    }

    /// Fails if `out` cannot become the folder of a new run. Creates nothing.
    pub fn check(out: Option<&Path>) -> Result<()> {
        let Some(folder) = out else { return Ok(()) };
        let shown = folder.display();
        ensure!(!folder.exists() || folder.is_dir(), "--out {shown} is a file; it must be a folder or a new name");
        if folder.is_dir() {
            FolderLock::acquire(folder)?; // that another process is training there says more than the files do
        }
        check_overwritten(folder)?;
        Ok(())
    }

    /// Creates the folder of a new run: `out`, or the default name, with a number if that name is taken.
    ///
    /// # Errors
    /// The folder cannot be created or written to, or already contains a run.
    pub fn create(out: Option<&Path>, config: &RunConfig) -> Result<Self> {
        Self::check(out)?;
        let folder = create_run_folder(out, config)?;
        let lock = FolderLock::acquire(&folder)?;
        // Another process may have trained here since the check above.
        if check_overwritten(&folder)? {
            warn!("{} contains a run that ended before it saved anything, and is used again", folder.display());
        }
        Self::remove_leftovers(&folder);
        config.save(&folder)?;
        Self::new(config, MetricsLog::create(&folder.join(Self::METRICS))?, lock)
    }

    /// Opens the folder of a run that resumes at `position`, and removes partial files of a killed process.
    pub fn resume(lock: FolderLock, config: &RunConfig, position: Position) -> Result<Self> {
        let folder = lock.folder();
        Self::remove_leftovers(folder);
        config.save(folder)?;
        let metrics = MetricsLog::resume(&folder.join(Self::METRICS), position.total_steps, position.epoch)?;
        Self::new(config, metrics, lock)
    }

    fn remove_leftovers(folder: &Path) {
        remove_leftovers(folder, &[&Self::ALL[..], &["epoch-"]].concat());
    }

    fn new(config: &RunConfig, metrics: MetricsLog, lock: FolderLock) -> Result<Self> {
        let title = title_of(config);
        let (description, lock) = (config.weights_description()?, Arc::new(lock));
        Ok(Self {
            title,
            description,
            kept: Kept::of(config),
            evaluated: Vec::new(),
            submitted: 0,
            metrics,
            saved_weights: None,
            writer: BackgroundWriter::default(),
            lock,
        })
    }

    pub fn folder(&self) -> &Path {
        self.lock.folder()
    }

    /// Whether the run's folder was moved or removed, so that its path leads elsewhere.
    pub fn is_moved(&self) -> bool {
        self.lock.check().is_err()
    }

    /// Whether the weights are those of the best epoch.
    pub fn keeps_best(&self) -> bool {
        self.kept.is_best
    }

    /// Keeps the weights of an evaluated epoch, and whether it is the best so far, for the next save.
    pub fn keep_epoch(&mut self, epoch: u32, is_best: bool, state: &TrainState) {
        let is_needed = is_best && self.kept.is_best || self.kept.epochs > 0;
        if is_needed {
            let (parameters, statistics) = (state.model().to_vec(), state.statistics.clone());
            self.evaluated.push(Arc::new(EpochWeights { epoch, is_best, parameters, statistics }));
        }
    }

    /// Warns if the weights of the best epoch so far are not in the folder, so that no file has them.
    pub fn warn_without_best(&self, network: &Network, chosen: Option<Chosen>) {
        if let Some(chosen) = chosen.filter(|_| self.kept.is_best)
            && let Err(error) = check_best(&self.folder().join(Self::WEIGHTS), network, chosen)
        {
            let (name, epoch) = (Self::WEIGHTS, chosen.epoch);
            warn!(
                "the weights of the best epoch, {epoch}, are lost; {name} is written again when an epoch is better: {error:#}"
            );
        }
    }

    /// Starts to save `state` in a background thread, for which [`Self::finish`] waits.
    ///
    /// # Errors
    /// The previous save failed, or the weights are not finite, in which case the earlier files are kept.
    pub fn save(&mut self, network: &Network, run: &RunIdentity, state: TrainState) -> Result<()> {
        let all = [&state.parameters, &state.momentum, &state.second_moment, &state.average, &state.statistics.values];
        let finite = all.into_iter().flatten().all(|value| value.is_finite());
        ensure!(finite, "the weights became NaN or infinite, so they are not saved; try a smaller --lr");
        self.finish()?;
        let steps = Some(state.position.total_steps);
        let save = Save {
            lock: Arc::clone(&self.lock),
            title: self.title.clone(),
            description: self.description.clone(),
            kept: self.kept,
            evaluated: self.evaluated.clone(),
            metrics: self.metrics.clone(),
            network: network.clone(),
            run: run.clone(),
            has_new_weights: self.saved_weights != steps,
            state,
        };
        self.submitted = self.evaluated.len();
        self.writer.submit(move || while_saving(|| save.write()))?;
        self.saved_weights = steps;
        Ok(())
    }

    /// Writes `metrics.jsonl` alone.
    ///
    /// # Errors
    /// The file could not be written, or the folder is no longer that of the run.
    pub fn save_metrics(&self) -> Result<()> {
        self.lock.check()?;
        self.metrics.save()
    }

    /// Whether a save has failed and its error has not been returned yet.
    pub fn save_failed(&self) -> bool {
        self.writer.has_failed()
    }

    /// Waits until all saves are on disk.
    ///
    /// # Errors
    /// A file could not be written.
    pub fn finish(&mut self) -> Result<()> {
        let submitted = std::mem::take(&mut self.submitted);
        self.writer.finish().inspect_err(|_| self.saved_weights = None)?;
        self.evaluated.drain(..submitted);
        Ok(())
    }
}

/// What one save writes.
struct Save {
    lock: Arc<FolderLock>,
    title: String,
    description: String,
    kept: Kept,
    evaluated: Vec<Arc<EpochWeights>>,
    metrics: MetricsLog,
    network: Network,
    run: RunIdentity,
    /// Whether the weights differ from those that were saved last.
    has_new_weights: bool,
    state: TrainState,
}

impl Save {
    /// Writes a run's files. The checkpoint comes last, so that the other files cover every step that it records. Before
    /// the first step it comes first, so that a folder without one contains nothing of value.
    fn write(&self) -> Result<()> {
        self.lock.check()?;
        let Self { state, network, .. } = self;
        let folder = self.lock.folder();
        let save_checkpoint = || save_state(&folder.join(Outputs::CHECKPOINT), network, &self.run, state);
        let is_first = state.position == Position::default();
        if is_first {
            save_checkpoint()?;
        }
        self.metrics.save()?;
        let curves = curves_svg(&self.metrics.epochs(), &self.title, self.kept.monitor);
        write_atomically(&folder.join(Outputs::CURVES), |writer| Ok(writer.write_all(curves.as_bytes())?))?;
        if self.has_new_weights {
            // Before the first evaluation, no epoch is the best.
            let without_best = !self.kept.is_best || state.chosen.is_none();
            let names = [(Outputs::WEIGHTS, without_best), (Outputs::LAST, self.kept.is_best)];
            for (name, _) in names.iter().filter(|(_, is_written)| *is_written) {
                let (path, epoch) = (folder.join(name), None);
                save_described_weights(&path, network, state.model(), &state.statistics, &self.description, epoch)?;
            }
        }
        self.write_epochs(folder)?;
        if is_first { Ok(()) } else { save_checkpoint() }
    }

    /// Writes the weights of the best epoch and those of the epochs to keep, and removes those of others.
    fn write_epochs(&self, folder: &Path) -> Result<()> {
        let kept = self.kept.epochs_of(&self.metrics);
        for weights in &self.evaluated {
            let EpochWeights { epoch, is_best, parameters, statistics } = &**weights;
            let write = |name: &str| {
                let path = folder.join(name);
                save_described_weights(&path, &self.network, parameters, statistics, &self.description, Some(*epoch))
            };
            if *is_best && self.kept.is_best {
                write(Outputs::WEIGHTS)?;
            }
            if kept.contains(epoch) {
                write(&epoch_file(*epoch))?;
            }
        }
        let is_superseded = |epoch: u32| self.kept.epochs > 0 && !kept.contains(&epoch);
        for record in self.metrics.epochs().iter().filter(|record| is_superseded(record.epoch)) {
            let path = folder.join(epoch_file(record.epoch));
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Fails if `folder` contains files that a new run would overwrite. Returns whether there are files without value, of a
/// run that ended before its first save.
fn check_overwritten(folder: &Path) -> Result<bool> {
    let shown = folder.display();
    // Files of an incomplete run must not be overwritten either.
    let Some(name) = Outputs::ALL.iter().find(|name| folder.join(name).exists()) else { return Ok(false) };
    if folder.join(Outputs::CHECKPOINT).exists() && folder.join(settings::FILE).exists() {
        bail!("--out {shown} already contains a run: choose another folder, or continue with --resume {shown}");
    }
    if is_abandoned(folder) {
        return Ok(true);
    }
    bail!("--out {shown} already contains {name}, which would be overwritten: choose another folder")
}

/// Whether the run in a folder ended before its first save: there is only its configuration, and no record.
fn is_abandoned(folder: &Path) -> bool {
    let has = |name: &&str| folder.join(name).exists();
    let metrics = folder.join(Outputs::METRICS);
    ![Outputs::CHECKPOINT, Outputs::WEIGHTS, Outputs::LAST, Outputs::CURVES].iter().any(has)
        && (!metrics.exists() || metrics.metadata().is_ok_and(|it| it.is_file() && it.len() == 0))
        && RunConfig::read(folder).is_ok()
}

/// The files of a complete run that are missing, or differ from its last state.
pub fn damaged_outputs(folder: &Path, network: &Network, state: &TrainState, config: &RunConfig) -> Vec<&'static str> {
    let is_last = |name: &str| {
        let weights = load_weights(&folder.join(name), network);
        weights.is_ok_and(|it| it.parameters == state.model() && it.statistics == state.statistics)
    };
    let has_best = Kept::of(config).is_best;
    let is_best = match state.chosen.filter(|_| has_best) {
        Some(chosen) => check_best(&folder.join(Outputs::WEIGHTS), network, chosen).is_ok(),
        None => is_last(Outputs::WEIGHTS),
    };
    let files = [
        (Outputs::WEIGHTS, is_best),
        (Outputs::LAST, !has_best || is_last(Outputs::LAST)),
        (Outputs::METRICS, MetricsLog::is_complete(&folder.join(Outputs::METRICS), state.position.epoch)),
        (Outputs::CURVES, check_curves(&folder.join(Outputs::CURVES)).is_ok()),
    ];
    files.into_iter().filter(|(_, fine)| !fine).map(|(name, _)| name).collect()
}

/// Fails if `curves.svg` is missing or not a whole drawing.
pub(super) fn check_curves(path: &Path) -> Result<()> {
    ensure!(path.exists(), "it is missing");
    ensure!(path.is_file(), "it is not a file");
    let drawing = fs::read(path).context("it cannot be read")?;
    let is_whole = drawing.starts_with(b"<svg") && drawing.trim_ascii_end().ends_with(b"</svg>");
    ensure!(is_whole, "it is damaged: it is not a whole drawing");
    Ok(())
}

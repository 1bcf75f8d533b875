//! The folder of a run and the files in it.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tracing::warn;

use crate::checkpoint::{RunIdentity, save_state, save_weights};
use crate::files::{BackgroundWriter, write_atomically};
use crate::network::Network;
use crate::report::{MetricsLog, curves_svg};
use crate::settings::{self, RunConfig, short_name};
use crate::train::{Position, TrainState};

/// A run's folder. It is locked against other processes until this value is dropped.
pub struct Outputs {
    folder: PathBuf,
    title: String,
    pub metrics: MetricsLog,
    /// Declared before the lock: fields are dropped in order, and the lock must outlive a pending write.
    writer: BackgroundWriter,
    _lock: Option<File>,
}

impl Outputs {
    pub const CHECKPOINT: &str = "checkpoint.safetensors";
    pub const WEIGHTS: &str = "model.safetensors";
    const METRICS: &str = "metrics.jsonl";
    const CURVES: &str = "curves.svg";
    const ALL: [&str; 5] = [settings::FILE, Self::METRICS, Self::WEIGHTS, Self::CHECKPOINT, Self::CURVES];

    /// Fails if `path`, the value of `flag`, is not a file of weights.
    pub fn check_weights(flag: &str, path: &Path) -> Result<()> {
        let (shown, weights) = (path.display(), path.join(Self::WEIGHTS));
        ensure!(!weights.is_file(), "{flag} {shown} is a folder; did you mean {}?", weights.display());
        ensure!(!path.is_dir(), "{flag} {shown} is a folder; a .safetensors file is expected");
        ensure!(path.exists(), "{flag} {shown}: there is no such file");
        Ok(())
    }

    /// Fails if `folder` is a file, or a run's folder without a checkpoint.
    pub fn check_resume(folder: &Path) -> Result<()> {
        let (shown, weights) = (folder.display(), folder.join(Self::WEIGHTS));
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        ensure!(
            !folder.is_file(),
            "--resume {shown} is a file; --resume takes the run's folder: did you mean {}?",
            parent.display()
        );
        if folder.join(settings::FILE).is_file() && !folder.join(Self::CHECKPOINT).exists() {
            lock(folder)?; // a process that has just started the run will write it
            let init =
                if weights.is_file() { format!(", or one with --init {}", weights.display()) } else { String::new() };
            bail!(
                "--resume {shown}: the run has no {}, so it cannot be resumed; start a new run{init}",
                Self::CHECKPOINT
            );
        }
        Ok(())
    }

    /// Fails if `out` cannot become the folder of a new run. Creates nothing.
    pub fn check(out: Option<&Path>) -> Result<()> {
        let Some(folder) = out else { return Ok(()) };
        let shown = folder.display();
        ensure!(!folder.exists() || folder.is_dir(), "--out {shown} is a file; it must be a folder or a new name");
        // Files of an incomplete run must not be overwritten either.
        let Some(name) = Self::ALL.iter().find(|name| folder.join(name).exists()) else { return Ok(()) };
        lock(folder)?; // that another process is training there says more than the files do
        if folder.join(Self::CHECKPOINT).exists() && folder.join(settings::FILE).exists() {
            bail!("--out {shown} already contains a run: choose another folder, or continue with --resume {shown}");
        }
        bail!("--out {shown} already contains {name}, which would be overwritten: choose another folder")
    }

    /// Creates the folder of a new run: `out`, or the default name, with a number if that name is taken.
    ///
    /// # Errors
    /// The folder cannot be created or written to, or already contains a run.
    pub fn create(out: Option<&Path>, config: &RunConfig) -> Result<Self> {
        Self::check(out)?;
        let folder = match out {
            Some(folder) => {
                let context = || format!("cannot create the folder --out {}", folder.display());
                fs::create_dir_all(folder).with_context(context)?;
                folder.to_path_buf()
            }
            None => default_folder(config)?,
        };
        let lock = lock(&folder)?;
        config.save(&folder)?;
        let metrics = MetricsLog::create(&folder.join(Self::METRICS))?;
        Ok(Self { title: title(config), folder, metrics, writer: BackgroundWriter::default(), _lock: lock })
    }

    /// Opens the folder of a run that resumes at `position`, and removes partial files of a killed process.
    pub fn resume(folder: &Path, config: &RunConfig, position: Position) -> Result<Self> {
        let lock = lock(folder)?;
        remove_leftovers(folder);
        config.save(folder)?;
        let metrics = MetricsLog::resume(&folder.join(Self::METRICS), position.total_steps, position.epoch)?;
        let (folder, writer) = (folder.to_path_buf(), BackgroundWriter::default());
        Ok(Self { title: title(config), folder, metrics, writer, _lock: lock })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts to save `state` in a background thread, for which [`Self::finish`] waits.
    ///
    /// # Errors
    /// The previous save failed, or the weights are not finite, in which case the earlier files are kept.
    pub fn save(&mut self, network: &Network, run: &RunIdentity, state: TrainState) -> Result<()> {
        let all = [&state.parameters, &state.momentum, &state.average, &state.statistics.values];
        let finite = all.into_iter().flatten().all(|value| value.is_finite());
        ensure!(finite, "the weights became NaN or infinite, so they are not saved; try a smaller --lr");
        let (folder, title, metrics) = (self.folder.clone(), self.title.clone(), self.metrics.clone());
        let (network, run) = (network.clone(), run.clone());
        self.writer.submit(move || write_all(&folder, &title, &metrics, &network, &run, &state))
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
        self.writer.finish()
    }
}

/// Writes a run's files. The checkpoint comes last, so that the other files cover every step that it records.
fn write_all(
    folder: &Path,
    title: &str,
    metrics: &MetricsLog,
    network: &Network,
    run: &RunIdentity,
    state: &TrainState,
) -> Result<()> {
    metrics.save()?;
    let curves = curves_svg(&metrics.epochs(), title);
    write_atomically(&folder.join(Outputs::CURVES), |writer| Ok(writer.write_all(curves.as_bytes())?))?;
    save_weights(&folder.join(Outputs::WEIGHTS), network, state.model(), &state.statistics)?;
    save_state(&folder.join(Outputs::CHECKPOINT), network, run, state)
}

/// Locks a folder for this process; `None` if the file system does not support locks.
fn lock(folder: &Path) -> Result<Option<File>> {
    let Ok(handle) = File::open(folder) else { return Ok(None) };
    match handle.try_lock() {
        Ok(()) => Ok(Some(handle)),
        Err(TryLockError::WouldBlock) => Err(anyhow!("another process is training in {}", folder.display())),
        Err(TryLockError::Error(error)) => {
            warn!("cannot lock {} against other processes: {error}", folder.display());
            Ok(None)
        }
    }
}

/// Removes the temporary files of a process that was killed while writing.
fn remove_leftovers(folder: &Path) {
    let leftover =
        |name: &str| Outputs::ALL.iter().any(|file| name.starts_with(&format!(".{file}."))) && name.ends_with(".tmp");
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if leftover(&entry.file_name().to_string_lossy())
            && let Err(error) = fs::remove_file(entry.path())
        {
            warn!("cannot remove {}: {error}", entry.path().display());
        }
    }
}

fn title(config: &RunConfig) -> String {
    format!("{} on {}, seed {}", config.model(), short_name(config.dataset()), config.seed())
}

/// Creates `runs/<model>-<dataset>-<seed>`, with a suffix `-2`, `-3`, … if that name is taken.
fn default_folder(config: &RunConfig) -> Result<PathBuf> {
    let parent = Path::new("runs");
    fs::create_dir_all(parent).context("cannot create the folder runs; choose another folder with --out")?;
    let name = format!("{}-{}-{}", config.model(), short_name(config.dataset()), config.seed());
    for number in 1_u32.. {
        let folder = match number {
            1 => parent.join(&name),
            _ => parent.join(format!("{name}-{number}")),
        };
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create the folder {}", folder.display())),
        }
    }
    bail!("all names for {name} in the folder runs are taken")
}

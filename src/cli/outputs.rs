//! The folder of a run and the files in it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::config::{self, Config};
use crate::checkpoint::{RunIdentity, save_state, save_weights};
use crate::files::write_atomically;
use crate::network::Network;
use crate::report::{MetricsLog, curves_svg};
use crate::train::{Position, TrainState};

/// A run's folder.
pub struct Outputs {
    folder: PathBuf,
    title: String,
    pub metrics: MetricsLog,
}

impl Outputs {
    pub const CHECKPOINT: &str = "checkpoint.safetensors";
    pub const WEIGHTS: &str = "model.safetensors";
    const METRICS: &str = "metrics.jsonl";
    const CURVES: &str = "curves.svg";

    /// Makes the folder of a new run: `out`, or the default with a number added where that is taken.
    ///
    /// # Errors
    /// Where it cannot be made or written to, or holds a run already.
    pub fn create(out: Option<&Path>, config: &Config) -> Result<Self> {
        let folder = match out {
            Some(folder) => {
                make_folder(folder)?;
                let taken = folder.join(config::FILE).exists() || folder.join(Self::CHECKPOINT).exists();
                let folder = folder.display();
                ensure!(!taken, "--out {folder} holds a run already: choose another, or go on with --resume {folder}");
                PathBuf::from(out.unwrap_or(Path::new(".")))
            }
            None => default_folder(config)?,
        };
        config.save(&folder)?;
        let metrics = MetricsLog::create(&folder.join(Self::METRICS))?;
        Ok(Self { title: title(config), folder, metrics })
    }

    /// Opens the folder of a run that goes on from `position`.
    pub fn resume(folder: &Path, config: &Config, position: Position) -> Result<Self> {
        config.save(folder)?;
        let metrics = MetricsLog::resume(&folder.join(Self::METRICS), position.total_steps, position.epoch)?;
        Ok(Self { title: title(config), folder: folder.to_path_buf(), metrics })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Saves everything. The checkpoint is last: what it says is done is then in the other files.
    pub fn save(&self, network: &Network, run: &RunIdentity, state: &TrainState) -> Result<()> {
        self.metrics.save()?;
        let curves = curves_svg(&self.metrics.epochs(), &self.title);
        write_atomically(&self.folder.join(Self::CURVES), |writer| Ok(writer.write_all(curves.as_bytes())?))?;
        save_weights(&self.folder.join(Self::WEIGHTS), network, &state.parameters)?;
        save_state(&self.folder.join(Self::CHECKPOINT), network, run, state)
    }
}

fn title(config: &Config) -> String {
    format!("{} on {}, seed {}", config.model, config.dataset, config.seed)
}

fn make_folder(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        bail!("--out {} is a file; it must be a folder, or not there yet", folder.display());
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder --out {}", folder.display()))
}

/// `runs/<model>-<dataset>-<seed>`, or with `-2`, `-3`, … where that is taken.
fn default_folder(config: &Config) -> Result<PathBuf> {
    let parent = Path::new("runs");
    fs::create_dir_all(parent).context("cannot make the folder runs; choose another place with --out")?;
    let name = format!("{}-{}-{}", config.model, config.dataset, config.seed);
    for number in 1_u32.. {
        let folder = match number {
            1 => parent.join(&name),
            _ => parent.join(format!("{name}-{number}")),
        };
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
        }
    }
    bail!("runs has no free name for {name}")
}

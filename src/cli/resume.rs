//! What a run goes on with: its own configuration, and the flags that may differ from it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use toml::Table;

use super::config::{self, Config, FILE};
use super::device::DeviceChoice;
use super::train::TrainArgs;
use crate::ops::Precision;
use crate::train::Schedule;

impl Config {
    /// The configuration of the run in `folder`. Flags may change where and how long it runs, nothing that would
    /// change its numbers.
    ///
    /// # Errors
    /// Where the folder holds no run, or a flag contradicts it.
    pub fn resumed(folder: &Path, args: &TrainArgs) -> Result<Self> {
        let path = folder.join(FILE);
        ensure!(path.is_file(), "--resume {}: there is no run, for {} is missing", folder.display(), path.display());
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("--resume {}: cannot read {}", folder.display(), path.display()))?;
        let damaged = || format!("--resume {}: {} is damaged", folder.display(), path.display());
        let mut file: Table = toml::from_str(&text).with_context(damaged)?;
        config::remove_retired(&mut file);
        let mut config: Self = file.try_into().with_context(damaged)?;
        unchanged("--model", args.model.as_ref(), &config.model)?;
        unchanged_option("--activation", args.activation.activation.as_ref(), config.activation.as_ref())?;
        unchanged("--conv1", args.conv1.as_ref(), &config.conv1)?;
        config.resume_dataset(&args.data)?;
        unchanged("--batch-size", args.batch_size.as_ref(), &config.batch_size)?;
        unchanged("--lr", args.lr.as_ref(), &config.lr)?;
        unchanged("--schedule", args.schedule.as_ref(), &config.schedule)?;
        unchanged("--warm-up", args.warm_up.as_ref(), &config.warm_up)?;
        if matches!(config.schedule, Schedule::Cosine | Schedule::OneCycle { .. }) {
            // The rate of every step follows from their number.
            unchanged("--epochs", args.epochs.as_ref(), &config.epochs)?;
        }
        unchanged("--momentum", args.momentum.as_ref(), &config.momentum)?;
        unchanged("--weight-decay", args.weight_decay.as_ref(), &config.weight_decay)?;
        unchanged_option("--clip-grad-norm", args.clip_grad_norm.as_ref(), config.clip_grad_norm.as_ref())?;
        unchanged_option("--ema", args.ema.as_ref(), config.ema.as_ref())?;
        unchanged("--label-smoothing", args.label_smoothing.as_ref(), &config.label_smoothing)?;
        unchanged_option("--dropout", args.dropout.as_ref(), config.dropout.as_ref())?;
        unchanged("--seed", args.seed.as_ref(), &config.seed)?;
        unchanged("--nesterov", args.nesterov.then_some(&true), &config.nesterov)?;
        unchanged("--no-shuffle", args.no_shuffle.then_some(&true), &!config.shuffle)?;
        let same = args.augmentation.over(&config.augmentation) == config.augmentation;
        ensure!(same, "the run to resume changes its images as it began; start a new run to change that");
        config.apply_anew(args);
        if config.device == DeviceChoice::Cpu && args.device.precision.is_none() {
            config.precision = Precision::Fp32; // all that the CPU has; checkpoints are the same in every precision
        }
        config.check().with_context(|| format!("{} is damaged", path.display()))?;
        Ok(config)
    }
}

/// An error where a flag says otherwise than the run.
pub fn unchanged<T: PartialEq + std::fmt::Display>(flag: &str, given: Option<&T>, run: &T) -> Result<()> {
    match given {
        Some(given) if given != run => {
            bail!("{flag} {given} contradicts the run to resume, which has {run}; start a new run to change it")
        }
        _ => Ok(()),
    }
}

/// The same for what may be missing in the run.
fn unchanged_option<T: PartialEq + std::fmt::Display>(flag: &str, given: Option<&T>, run: Option<&T>) -> Result<()> {
    match (given, run) {
        (Some(given), None) => {
            bail!("{flag} {given} contradicts the run to resume, which goes without; start a new run to change it")
        }
        (given, Some(run)) => unchanged(flag, given, run),
        (None, None) => Ok(()),
    }
}

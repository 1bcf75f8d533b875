//! Checks the files in a run's folder.

use std::path::Path;

use anyhow::{Result, ensure};

use super::outputs::Outputs;
use crate::checkpoint::{inspect_checkpoint, inspect_weights};
use crate::report::MetricsLog;
use crate::settings::{self, RunConfig};

/// A file of a run, and what it contains, or what is wrong with it.
pub type Verified = (&'static str, Result<String>);

/// Checks every file in a run's folder.
pub fn verify(folder: &Path) -> Vec<Verified> {
    let path = |name| folder.join(name);
    let checkpoint = inspect_checkpoint(&path(Outputs::CHECKPOINT));
    let epochs = checkpoint.as_ref().map_or(0, |it| it.position.epoch);
    let digest = |has_digest| if has_digest { "SHA-256 matches" } else { "of an earlier version, without SHA-256" };
    let config = RunConfig::read(folder).map(|config| format!("{} on {}", config.model(), config.dataset()));
    let weights = || {
        let weights = inspect_weights(&path(Outputs::WEIGHTS), &path(Outputs::CHECKPOINT))?;
        let lag = "its weights are not those of the checkpoint; --resume writes them again";
        ensure!(weights.are_of_checkpoint, "{lag}");
        Ok(format!("{}; the weights of the checkpoint", digest(weights.has_digest)))
    };
    let metrics = || {
        ensure!(MetricsLog::is_complete(&path(Outputs::METRICS), epochs), "it is missing, damaged or lacks epochs");
        Ok(format!("complete up to epoch {epochs}"))
    };
    let curves = || {
        ensure!(path(Outputs::CURVES).is_file(), "it is missing");
        Ok("present".into())
    };
    let done = checkpoint.map(|it| {
        let steps = it.position.total_steps;
        format!("{}; epochs done: {epochs}, steps: {steps}", digest(it.has_digest))
    });
    vec![
        (settings::FILE, config),
        (Outputs::CHECKPOINT, done),
        (Outputs::WEIGHTS, weights()),
        (Outputs::METRICS, metrics()),
        (Outputs::CURVES, curves()),
    ]
}

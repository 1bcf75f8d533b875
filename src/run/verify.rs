//! Checks the files in a run's folder.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};

use super::kept::{Kept, check_epoch};
use super::outputs::{Outputs, check_curves};
use super::report::{check_picture, check_report};
use super::session::identity_without_data;
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
    let digest = |has_digest| if has_digest { "SHA-256 matches" } else { "not verified, because it has no SHA-256" };
    let config = || {
        let config = RunConfig::read(folder)?;
        if let Ok(checkpoint) = &checkpoint {
            checkpoint.check_settings(&identity_without_data(&config)?)?;
        }
        Ok(format!("{} on {}", config.model(), config.dataset()))
    };
    let config = config();
    // Without a usable configuration, the file itself tells.
    let kept = RunConfig::read(folder).map(|config| Kept::of(&config)).ok();
    let has_best = kept.map_or(path(Outputs::LAST).exists(), |kept| kept.is_best);
    let monitor = kept.and_then(|kept| kept.monitor);
    let chosen = checkpoint.as_ref().ok().and_then(|it| it.chosen).filter(|_| has_best);
    let of_checkpoint = |name| {
        let beside = checkpoint.is_ok().then(|| path(Outputs::CHECKPOINT));
        let weights = inspect_weights(&path(name), beside.as_deref())?;
        let lag = "its weights are not those of the checkpoint; --resume writes them again";
        ensure!(weights.are_of_checkpoint != Some(false), "{lag}");
        let compared = match weights.are_of_checkpoint {
            Some(_) => "the weights of the checkpoint",
            None => "there is no usable checkpoint to compare it with",
        };
        Ok(format!("{}; {compared}", digest(weights.has_digest)))
    };
    let by = monitor.map_or_else(String::new, |monitor| format!(", by its {}", monitor.words()));
    let of_best = |chosen| {
        let weights = inspect_weights(&path(Outputs::WEIGHTS), None)?;
        check_epoch(weights.epoch, chosen)?;
        Ok(format!("{}; the weights of the best epoch, {}{by}", digest(weights.has_digest), chosen.epoch))
    };
    let weights = chosen.map_or_else(|| of_checkpoint(Outputs::WEIGHTS), of_best);
    let last = has_best.then(|| (Outputs::LAST, of_checkpoint(Outputs::LAST)));
    let metrics = MetricsLog::check(&path(Outputs::METRICS), epochs).map(|()| match &checkpoint {
        Ok(_) => format!("complete up to epoch {epochs}"),
        Err(_) => "every line is a record".into(),
    });
    let curves = check_curves(&path(Outputs::CURVES)).map(|()| "complete".into());
    let done = checkpoint.map(|it| {
        let steps = it.position.total_steps;
        format!("{}; epochs done: {epochs}, steps: {steps}", digest(it.has_digest))
    });
    let first = [(settings::FILE, config), (Outputs::CHECKPOINT, done), (Outputs::WEIGHTS, weights)];
    let others = [(Outputs::METRICS, metrics), (Outputs::CURVES, curves)];
    first.into_iter().chain(last).chain(others).chain(verify_report(folder)).collect()
}

/// The files of a report, which a run need not have.
fn verify_report(folder: &Path) -> impl Iterator<Item = Verified> {
    let or_remedy = |result: Result<()>, remedy: &str| match result {
        Ok(()) => Ok("complete".into()),
        Err(error) => Err(anyhow!("{error:#}; {remedy}")),
    };
    let again = |result| or_remedy(result, "cnn-cuda report writes it again");
    let lost = |result| or_remedy(result, "it can be removed, but not written again");
    let path = |name| Some(folder.join(name)).filter(|path: &PathBuf| path.symlink_metadata().is_ok());
    let files = [
        path(Outputs::REPORT).map(|path| (Outputs::REPORT, again(check_report(&path)))),
        path(Outputs::CONFUSION).map(|path| (Outputs::CONFUSION, again(check_picture(&path)))),
        path(Outputs::TRAIN_BATCH).map(|path| (Outputs::TRAIN_BATCH, lost(check_picture(&path)))),
    ];
    files.into_iter().flatten()
}

//! Makes a run's report from its folder and an evaluation: `report.html` and `confusion.png`; and `train_batch.png`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::kept::{Kept, title};
use super::outputs::Outputs;
use super::signals::while_saving;
use crate::checkpoint::{inspect_checkpoint, inspect_weights};
use crate::files::write_atomically;
use crate::network::{Network, Weights};
use crate::ops::Normalise;
use crate::report::picture::{Picture, Rgb};
use crate::report::{
    EpochRecord, Evaluation, ListedSetting, MetricsLog, RunPage, batch_picture, batch_words, confusion_picture,
    first_layer_filters, grouped,
};
use crate::settings::{InputRecord, RunConfig};
use crate::train::FirstBatch;

/// Between filters: white would not be distinguished from a filter's values near 0.
const GROUND: Rgb = [0xd9, 0xde, 0xe4];

/// A run to report, with what is known of it. A part that is missing says why.
pub struct Report<'a> {
    pub folder: &'a Path,
    pub config: &'a RunConfig,
    pub evaluation: Result<Evaluation, String>,
    /// The network with the weights of `model.safetensors`.
    pub weights: Result<(&'a Network, &'a Weights), String>,
}

impl Report<'_> {
    /// Writes the report to `target`, or into the run's folder, with the picture of the confusion matrix.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(self, target: Option<&Path>) -> Result<()> {
        let folder = self.folder;
        let picture = self.evaluation.as_ref().ok().map(|it| confusion_picture(&it.confusion));
        let page = self.page()?.render()?;
        let path = folder.join(Outputs::REPORT);
        while_saving(|| {
            if let (Some(picture), None) = (picture, target) {
                write_picture(&folder.join(Outputs::CONFUSION), &picture)?;
            }
            write_atomically(target.unwrap_or(&path), |writer| Ok(writer.write_all(page.as_bytes())?))
        })
    }

    fn page(self) -> Result<RunPage> {
        let Self { folder, config, evaluation, weights } = self;
        let epochs = MetricsLog::read_epochs(&folder.join(Outputs::METRICS)).map_err(|error| format!("{error:#}"));
        let settings = config.listed()?.into_iter();
        let settings = settings.map(|it| ListedSetting { name: it.name, value: it.value, default: it.default });
        let facts = vec![
            ("Network and data", network_facts(config, &weights, &evaluation)),
            ("Machine", machine_facts(config)),
            ("Time", time_facts(config, epochs.as_deref().unwrap_or_default())),
        ];
        Ok(RunPage {
            title: title(config),
            lead: lead(folder, config, epochs.as_deref().unwrap_or_default()),
            evaluated: evaluated(folder, config, &evaluation),
            train_batch: train_batch(folder, config).map_err(|error| format!("{error:#}")),
            filters: weights.and_then(|(network, weights)| filters(network, weights)),
            settings: settings.collect(),
            evaluation,
            epochs,
            facts,
        })
    }
}

/// Writes `train_batch.png` into a run's folder. `labels` are those of all training images.
///
/// # Errors
/// The file cannot be written.
pub fn write_batch(
    folder: &Path,
    batch: &FirstBatch,
    normalise: &Normalise,
    labels: &[u32],
    classes: &[String],
) -> Result<()> {
    let labels: Vec<u32> = batch.indices.iter().map(|&index| labels[index as usize]).collect();
    let pixels = normalise.pixels(&batch.values);
    let picture = batch_picture(&pixels, normalise.shape, &labels, classes, batch.mix);
    while_saving(|| write_picture(&folder.join(Outputs::TRAIN_BATCH), &picture))
}

fn write_picture(path: &Path, picture: &Picture) -> Result<()> {
    let png = picture.png()?;
    write_atomically(path, |writer| Ok(writer.write_all(&png)?))
}

/// Fails if a picture of a report is damaged.
pub(super) fn check_picture(path: &Path) -> Result<()> {
    let file = fs::read(path).context("it cannot be read")?;
    image::load_from_memory_with_format(&file, image::ImageFormat::Png).context("it is damaged")?;
    Ok(())
}

/// Fails if a report is not a whole page.
pub(super) fn check_report(path: &Path) -> Result<()> {
    let page = fs::read(path).context("it cannot be read")?;
    let is_whole = page.starts_with(b"<!DOCTYPE html>") && page.trim_ascii_end().ends_with(b"</html>");
    ensure!(is_whole, "it is damaged: it is not a whole page");
    Ok(())
}

fn train_batch(folder: &Path, config: &RunConfig) -> Result<(Vec<u8>, String)> {
    let path = folder.join(Outputs::TRAIN_BATCH);
    if !path.is_file() {
        bail!(
            "the run's folder has no {}, which a run without --no-report writes when it begins",
            Outputs::TRAIN_BATCH
        );
    }
    check_picture(&path).context(Outputs::TRAIN_BATCH)?;
    let shape = config.record.input.as_ref().map(InputRecord::shape).context("the input is not known")?;
    let words = batch_words(shape, config.hyperparameters().mixing.is_on());
    Ok((fs::read(&path).context(Outputs::TRAIN_BATCH)?, words))
}

fn filters(network: &Network, weights: &Weights) -> Result<(Picture, String), String> {
    let sheet = first_layer_filters(network, weights, GROUND).ok_or("the network does not begin with a convolution")?;
    let colours = match network.input().channels {
        3 => "Middle gray is 0",
        1 => "White is 0, red is positive, blue is negative",
        _ => "The mean over the input channels: white is 0, red is positive, blue is negative",
    };
    Ok((sheet, format!("{colours}; each filter has its own scale")))
}

/// When the run began, how far it is and how long that took.
fn lead(folder: &Path, config: &RunConfig, epochs: &[EpochRecord]) -> String {
    let mut parts = Vec::new();
    parts.extend(config.record.environment.as_ref().map(|it| format!("{} UTC", it.started)));
    if let Some(last) = epochs.last() {
        let steps = grouped(last.steps as f64);
        parts.push(format!("epoch {} of {}, {steps} steps", last.epoch, config.hyperparameters().epochs));
        if let Some(done) = inspect_checkpoint(&folder.join(Outputs::CHECKPOINT)).ok().map(|it| it.position.total_steps)
            && done > last.steps
        {
            parts.push(format!("interrupted after {} steps", grouped(done as f64)));
        }
        parts.push(duration(total_seconds(epochs)));
    }
    parts.join(" · ")
}

/// Which weights were evaluated, and on which images.
fn evaluated(folder: &Path, config: &RunConfig, evaluation: &Result<Evaluation, String>) -> String {
    let epoch = inspect_weights(&folder.join(Outputs::WEIGHTS), None).ok().and_then(|it| it.epoch);
    let best = Kept::of(config).monitor.filter(|_| Kept::of(config).is_best);
    let weights = match (epoch, best) {
        (Some(epoch), Some(monitor)) => format!("The weights of epoch {epoch}, the best by its {}", monitor.words()),
        _ => "The weights after the last step".into(),
    };
    let images = evaluation.as_ref().map_or(0, |it| it.metrics.samples);
    format!("{weights}, evaluated on the {} test images.", grouped(images as f64))
}

fn network_facts(
    config: &RunConfig,
    weights: &Result<(&Network, &Weights), String>,
    evaluation: &Result<Evaluation, String>,
) -> Vec<(String, String)> {
    let mut facts = vec![("network", config.model().to_string())];
    facts.extend(weights.as_ref().ok().map(|it| ("parameters", grouped(it.0.evaluated_parameter_count() as f64))));
    facts.push(("data set", config.dataset().into()));
    facts.extend(evaluation.as_ref().ok().map(|it| ("test images", grouped(it.metrics.samples as f64))));
    if let Some(input) = &config.record.input {
        let joined = |values: &[f32]| values.iter().map(|it| format!("{it:.4}")).collect::<Vec<_>>().join(", ");
        let (mean, std) = input.normalisation();
        facts.push(("classes", input.classes.len().to_string()));
        facts.push(("images", format!("{} (channels×height×width)", input.shape())));
        facts.extend([("mean", joined(&mean)), ("std", joined(&std))]);
    }
    owned(facts)
}

fn machine_facts(config: &RunConfig) -> Vec<(String, String)> {
    let Some(it) = &config.record.environment else {
        return owned(vec![("machine", "not recorded by the version that trained this run".into())]);
    };
    let mut facts = vec![("device", it.device.clone())];
    facts.extend(it.processor.clone().map(|name| ("processor", name)));
    facts.extend(it.processors.map(|count| ("processors", count.to_string())));
    facts.extend(it.memory_gib.map(|gib| ("memory", format!("{gib} GiB"))));
    facts.push(("cnn-cuda", it.version.clone()));
    owned(facts)
}

fn time_facts(config: &RunConfig, epochs: &[EpochRecord]) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    facts.extend(config.record.environment.as_ref().map(|it| ("began", format!("{} UTC", it.started))));
    if !epochs.is_empty() {
        let total = total_seconds(epochs);
        let mut rates: Vec<f64> = epochs.iter().map(|it| it.images_per_second).collect();
        rates.sort_by(f64::total_cmp);
        facts.push(("training and evaluation", duration(total)));
        facts.push(("per epoch", duration(total / epochs.len() as f64)));
        facts.push(("training speed", format!("{} images/s", grouped(rates[rates.len() / 2]))));
    }
    owned(facts)
}

fn owned(facts: Vec<(&str, String)>) -> Vec<(String, String)> {
    facts.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

fn total_seconds(epochs: &[EpochRecord]) -> f64 {
    epochs.iter().map(|it| it.seconds).sum()
}

/// Seconds in the largest units that fit.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

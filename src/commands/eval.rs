//! `cnn-cuda eval`

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::device::{Task, check_device, with_backend};
use super::evaluated::{Evaluated, EvaluatedFlags, SplitName};
use crate::data::{Dataset, Residency};
use crate::network::{Network, Weights};
use crate::ops::{Backend, Normalise, TestViews};
use crate::report::stream::{Stdout, write_json};
use crate::report::{Confusion, TOP, first_maximum, rank};
use crate::settings::{DeviceSettings, EvaluationSettings, Given, RetiredFlags, bounds};
use crate::train::{Evaluator, Monitor};

#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    evaluated: EvaluatedFlags,
    #[command(flatten)]
    evaluation: Given<EvaluationSettings>,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    #[command(flatten)]
    retired: RetiredFlags,
    /// Images per step
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "128")]
    batch_size: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Evaluates weights on a split of a data set, by default the test set.
pub fn run(args: &EvalArgs) -> Result<ExitCode> {
    args.retired.warn();
    let device = args.device.or_defaults()?;
    check_device(&device)?;
    let Evaluated { network, weights, dataset, config, chosen_by } = args.evaluated.load()?;
    let (network, weights) = network.folded(&weights);
    let views = args.evaluation.0.views(config.as_ref().map(|config| &config.settings.evaluation));
    let (batch_size, split) = (args.batch_size, args.evaluated.split);
    let task = Evaluation { network: &network, weights: &weights, dataset, batch_size, split, views, chosen_by };
    let result = with_backend(&device, task)?;
    let mut out = Stdout::default();
    if args.json {
        write_json(&mut out, &result)?;
    } else {
        let images = result.images;
        let speed = images as f64 / result.seconds;
        let (split, accuracy) = (split.words(), 100.0 * result.accuracy);
        let top5 = result.top5_accuracy.map_or(String::new(), |top5| format!(" (top 5: {:.2}%)", 100.0 * top5));
        write!(out, "{split} loss {:.4}, accuracy {accuracy:.2}%{top5} of {images} images", result.loss)?;
        let views = if views == TestViews::None { String::new() } else { format!(", with --tta {}", views.name()) };
        writeln!(out, " in {:.2} s ({speed:.0} images/s){views}", result.seconds)?;
        if let Some(monitor) = result.chosen_by {
            let words = monitor.words();
            writeln!(out, "these weights were chosen by their {words}, so this is better than on new images")?;
        }
        writeln!(out)?;
        result.confusion.print(&mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Evaluation<'a> {
    network: &'a Network,
    weights: &'a Weights,
    dataset: Dataset,
    batch_size: usize,
    split: SplitName,
    views: TestViews,
    chosen_by: Option<Monitor>,
}

#[derive(Serialize)]
struct EvaluationResult {
    split: SplitName,
    /// The test-time augmentation.
    #[serde(rename = "tta")]
    views: TestViews,
    loss: f64,
    accuracy: f64,
    /// The fraction of images whose class is among the five most likely; absent with at most five classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    top5_accuracy: Option<f64>,
    images: u64,
    /// From the first batch to the last, without loading.
    seconds: f64,
    /// What chose the epoch of the weights, if that was the result on these images.
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen_by: Option<Monitor>,
    confusion: Confusion,
}

impl Task for Evaluation<'_> {
    type Output = EvaluationResult;

    fn run<B: Backend>(self, backend: B) -> Result<EvaluationResult> {
        let Self { network, weights, mut dataset, batch_size, split, views, chosen_by } = self;
        Residency::Auto.place(&mut dataset, backend.device_memory().map(|[free, _]| free))?;
        let Dataset { shape, classes, mean, std, test, .. } = dataset;
        let labels = test.labels.clone();
        let normalise = Normalise { shape, mean, std };
        let mut evaluator = Evaluator::new(backend, network, weights, test, &normalise, batch_size, views)?;
        let mut confusion = Confusion::new(classes);
        let start = Instant::now();
        let mut in_top = 0;
        let metrics = evaluator.run(|index, logits| {
            confusion.add(labels[index], first_maximum(logits) as u32);
            in_top += u64::from(rank(logits, labels[index] as usize) < TOP);
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let (loss, accuracy, images) = (metrics.loss(), metrics.accuracy(), metrics.samples);
        // With so few classes it is always 1.
        let top5_accuracy = (network.classes() > TOP).then(|| in_top as f64 / images as f64);
        Ok(EvaluationResult { split, views, loss, accuracy, top5_accuracy, images, seconds, chosen_by, confusion })
    }
}

//! `cnn-cuda lr-find`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use tracing::info;

use super::device::{Task, check_device, with_backend};
use super::train::{initial_weights, load, network_of, trainer_of};
use super::{find_model, pretrained};
use crate::data::Dataset;
use crate::files::{create_folder, write_atomically};
use crate::models::has_own_rule;
use crate::network::Network;
use crate::ops::{Backend, DeviceInfo};
use crate::report::stream::{Stdout, write_json};
use crate::report::{range_svg, range_words};
use crate::run::Outputs;
use crate::settings::{Layer, ResidencyFlags, RunConfig, Settings, bounds, short_name, usage};
use crate::train::{RangeEnding, RangeTest, RateRange, Suggestion};

/// Fewer steps leave too few after those that do not count.
const FEWEST_STEPS: usize = 10;

#[derive(Args)]
pub struct LrFindArgs {
    /// Lowest learning rate
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, default_value = "1e-7", allow_negative_numbers = true)]
    min_lr: f32,
    /// Highest learning rate
    #[arg(long, value_name = "X", value_parser = bounds::above_zero, default_value = "10", allow_negative_numbers = true)]
    max_lr: f32,
    /// Optimiser steps, each with a learning rate of its own
    #[arg(long, value_name = "N", value_parser = bounds::bench_steps, default_value = "100", allow_negative_numbers = true)]
    steps: usize,
    /// Recipe, as of train
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Layer,
    #[command(flatten)]
    residency: ResidencyFlags,
    /// Folder for lr-find.svg and lr-find.json, which are overwritten [default: runs/lr-find-MODEL-DATASET-SEED]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Print no progress of downloads and of loading
    #[arg(long, help_heading = "Output")]
    quiet: bool,
}

/// The content of `lr-find.json`.
#[derive(Serialize)]
struct Report<'a> {
    min_lr: f32,
    max_lr: f32,
    steps: usize,
    /// `complete` or `diverged`.
    ending: &'static str,
    rates: Vec<f32>,
    /// Not finite if `null`.
    losses: Vec<f64>,
    smoothed_losses: Vec<f64>,
    smoothing: f64,
    /// The lower of `steepest` and `lowest_tenth`; `null` if there is none.
    suggestion: Option<f32>,
    /// The rate at which the smoothed loss falls fastest.
    steepest: Option<f32>,
    /// The rate at which the smoothed loss is lowest, and a tenth of it.
    lowest: Option<f32>,
    lowest_tenth: Option<f32>,
    /// Why there is no suggestion.
    reason: Option<String>,
    device: String,
    precision: String,
    settings: &'a Settings,
}

/// Tests a range of learning rates.
pub fn run(args: LrFindArgs) -> Result<ExitCode> {
    let LrFindArgs { min_lr: min, max_lr: max, steps, .. } = args;
    usage(min < max, || format!("--min-lr {min} must be below --max-lr {max}"))?;
    usage(steps >= FEWEST_STEPS, || format!("--steps {steps} are too few; at least {FEWEST_STEPS} are needed"))?;
    let mut flags = args.settings.clone();
    let residency = &mut flags.given.residency.residency;
    *residency = args.residency.given().or(*residency);
    let mut config = RunConfig::new(&flags, args.config.as_deref())?;
    usage(!has_own_rule(config.model()), || {
        format!("--model {} has no learning rate: it learns by a rule of its own", config.model())
    })?;
    let device = config.device();
    let model = find_model(config.model())?;
    check_device(&device)?;
    pretrained::check_model(&config)?;
    if let Some(init) = &mut config.settings.schedule.init {
        *init = Outputs::weights_file("--init", init)?;
    }
    Outputs::check(args.out.as_deref())?;
    let dataset = load(&mut config, !args.quiet)?;
    let pretrained = pretrained::find(&config, !args.quiet)?;
    let network = network_of(&config, model, &dataset)?;
    let range = RateRange { min, max, steps };
    with_backend(&device, Finding { range, config, out: args.out, network, dataset, pretrained })
}

/// A range test, to be executed on the chosen backend.
struct Finding {
    range: RateRange,
    config: RunConfig,
    out: Option<PathBuf>,
    network: Network,
    dataset: Dataset,
    pretrained: Option<PathBuf>,
}

impl Task for Finding {
    type Output = ExitCode;

    fn run<B: Backend>(self, backend: B) -> Result<ExitCode> {
        let Self { range, config, out, network, dataset, pretrained } = self;
        let device = backend.info();
        let initial = initial_weights(&config, &network, &dataset, pretrained.as_deref())?;
        let mut trainer = trainer_of(backend, &config, network, dataset, initial)?;
        let RateRange { min, max, steps } = range;
        info!("{}: {steps} steps with learning rates from {min:e} to {max:e}", config.model());
        let test = trainer.range_test(range)?;
        let name = format!("{}-{}-{}", config.model(), short_name(config.dataset()), config.seed());
        let out = out.unwrap_or_else(|| Path::new("runs").join(format!("lr-find-{name}")));
        finish(&test, &config, &device, &out)
    }
}

/// Writes the files and prints the suggestion.
fn finish(test: &RangeTest, config: &RunConfig, device: &DeviceInfo, out: &Path) -> Result<ExitCode> {
    let suggestion = test.suggestion();
    let words = range_words(test, &suggestion);
    let title = format!("Learning rates: {} on {}", config.model(), short_name(config.dataset()));
    let svg = range_svg(test, &title, &words, suggestion.as_ref().ok().copied());
    create_folder(out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    write_atomically(&out.join("lr-find.svg"), |writer| Ok(writer.write_all(svg.as_bytes())?))?;
    let report = Report::new(test, config, device);
    write_atomically(&out.join("lr-find.json"), |mut writer| write_json(&mut writer, &report))?;
    if suggestion.is_err() {
        bail!("{words} (the curve: {})", out.join("lr-find.svg").display());
    }
    writeln!(Stdout::default(), "{words}\nthe curve: {}", out.join("lr-find.svg").display())?;
    Ok(ExitCode::SUCCESS)
}

impl<'a> Report<'a> {
    fn new(test: &RangeTest, config: &'a RunConfig, device: &DeviceInfo) -> Self {
        let RateRange { min, max, steps } = test.range;
        let suggestion = test.suggestion();
        let lowest = suggestion.as_ref().ok().map(|it| it.lowest);
        Self {
            min_lr: min,
            max_lr: max,
            steps,
            ending: if test.ending() == Some(RangeEnding::Diverged) { "diverged" } else { "complete" },
            rates: test.steps.iter().map(|step| step.rate).collect(),
            losses: test.steps.iter().map(|step| step.loss).collect(),
            smoothed_losses: test.steps.iter().map(|step| step.smoothed).collect(),
            smoothing: RangeTest::SMOOTHING,
            suggestion: suggestion.as_ref().ok().map(Suggestion::rate),
            steepest: suggestion.as_ref().ok().map(|it| it.steepest),
            lowest,
            lowest_tenth: lowest.map(|rate| rate / 10.0),
            reason: suggestion.err().map(|error| format!("{error:#}")),
            device: device.name.clone(),
            precision: device.precision.to_string(),
            settings: &config.settings,
        }
    }
}

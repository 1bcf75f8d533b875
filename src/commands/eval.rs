//! `cnn-cuda eval`

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::device::{Task, check_device, with_backend};
use super::{model_of_weights, warn_of_assumptions, weights_and_config};
use crate::checkpoint::{inspect_weights, load_weights};
use crate::data::{self, Dataset, LoadOptions, Residency, Split, TrainPictures};
use crate::network::{Network, Weights};
use crate::ops::{Backend, Normalise, TestViews};
use crate::report::Confusion;
use crate::report::stream::{Stdout, write_json};
use crate::settings::{
    DataSettings, DeviceSettings, EvaluationSettings, Given, InputRecord, ModelSettings, PictureSettings, RetiredFlags,
    RunConfig, UsageError, bounds, build_network, check_dataset, defaults, usage,
};
use crate::shape::Shape;
use crate::train::{Evaluator, Monitor};

/// `--split`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum SplitName {
    Train,
    Val,
    Test,
}

impl SplitName {
    /// The split's name in words.
    fn words(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Val => "validation",
            Self::Test => "test",
        }
    }
}

#[derive(Args)]
pub struct EvalArgs {
    /// Weights (safetensors, or .pth of torch.save), or the folder of a run
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    #[command(flatten)]
    model: Given<ModelSettings>,
    #[command(flatten)]
    data: Given<DataSettings>,
    #[command(flatten)]
    pictures: Given<PictureSettings>,
    #[command(flatten)]
    evaluation: Given<EvaluationSettings>,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    #[command(flatten)]
    retired: RetiredFlags,
    /// Images to evaluate: those of the test set, of the validation set or of the training set
    #[arg(long, value_name = "NAME", default_value = "test")]
    split: SplitName,
    /// Images per step
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "128")]
    batch_size: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Evaluates weights on a split of a data set, by default the test set. The weights' metadata or the configuration next to
/// them provides the settings that no flag gives.
pub fn run(args: &EvalArgs) -> Result<ExitCode> {
    args.retired.warn();
    let (path, config) = weights_and_config(&args.weights)?;
    let (model, activation) = model_of_weights(&args.model, &path, config.as_ref())?;
    let device = args.device.or_defaults()?;
    check_device(&device)?;
    let dataset = load(args, config.as_ref())?;
    let network = build_network(model, dataset.shape, dataset.classes.len())?;
    let network = args.model.0.apply(network, activation);
    let weights = load_weights(&path, &network)?;
    if config.is_none() {
        let given = &args.data.0;
        let model = args.model.0.model.is_none().then(|| format!("the network is {} (--model)", model.name));
        let data = given.dataset.is_none().then(|| format!("the images are those of {} (--dataset)", dataset.name));
        let normalisation = given.normalisation.given().is_none();
        let normalisation =
            normalisation.then(|| format!("their mean is {:?} and std {:?}", dataset.mean, dataset.std));
        warn_of_assumptions(&path, [model, data, normalisation.map(|text| text + " (--mean and --std)")]);
    }
    let views = args.evaluation.0.views(config.as_ref().map(|config| &config.settings.evaluation));
    let (batch_size, split) = (args.batch_size, args.split);
    // Only the weights of an evaluated epoch record it, and only in safetensors.
    let is_chosen = |_: &Monitor| inspect_weights(&path, None).is_ok_and(|weights| weights.epoch.is_some());
    let chosen_by = config.as_ref().and_then(|config| chosen_by(args, config)).filter(is_chosen);
    let task = Evaluation { network: &network, weights: &weights, dataset, batch_size, split, views, chosen_by };
    let result = with_backend(&device, task)?;
    let mut out = Stdout::default();
    if args.json {
        write_json(&mut out, &result)?;
    } else {
        let images = result.images;
        let speed = images as f64 / result.seconds;
        let (split, accuracy) = (args.split.words(), 100.0 * result.accuracy);
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

/// Loads the images to evaluate, as the test set, according to the flags, and otherwise as the run did.
fn load(args: &EvalArgs, config: Option<&RunConfig>) -> Result<Dataset> {
    let mut options = config.map_or_else(LoadOptions::default, RunConfig::load_options);
    let given = &args.data.0;
    let defaults = defaults::<DataSettings>().dataset.unwrap_or_default();
    let name = given.dataset.as_deref().or(config.map(RunConfig::dataset)).unwrap_or(&defaults);
    // Check the flags before anything is downloaded.
    let checked = check_dataset(name);
    if config.is_some() && given.dataset.is_none() {
        checked.context("the weights were trained on a data set that is missing; --dataset evaluates on another")?;
    } else {
        checked?;
    }
    args.pictures.0.check(name)?;
    check_split(args, config, name)?;
    if given.dataset.is_some() || given.folder.data.is_some() || !options.folder.is_dir() {
        options.folder = given.folder.folder();
    }
    // A set that only a file names is read, but not downloaded.
    options.download = given.dataset.is_some();
    let trained = config.and_then(|config| config.record.input.as_ref()).map(InputRecord::shape);
    if let Some(trained) = trained {
        options.pictures.image_size = Some((trained.height, trained.width));
        options.channels = Some(trained.channels);
    }
    options.pictures = args.pictures.0.resolve_with(options.pictures);
    let normalisation = given.normalisation.given().or(options.normalisation);
    // A single value fits any number of channels; those of the images are not known yet.
    options.normalisation = normalisation.as_ref().map(|_| (vec![0.5], vec![0.5]));
    (options.progress, options.test_only) = (true, args.split == SplitName::Test);
    options.pictures.train = TrainPictures::Evaluated;
    given.check()?;
    options.validation = given.validation().or(options.validation);
    options.residency = Residency::Auto;
    options.segments = given.segmentation.given_or(config.map(|config| &config.settings.data.segmentation));
    let mut dataset = data::load(name, &options)?;
    match args.split {
        SplitName::Train => dataset.test = std::mem::take(&mut dataset.train),
        SplitName::Val => dataset.test = std::mem::take(&mut dataset.val),
        SplitName::Test => {}
    }
    let (split, needed) = (args.split.words(), "a folder val beside train and test, or --val-fraction as in training");
    ensure!(dataset.test.count() > 0, "{name} has no {split} images for --split; they need {needed}");
    (dataset.train, dataset.val) = <(Split, Split)>::default();
    if let Some(normalisation) = normalisation {
        let channels = dataset.shape.channels;
        if let (Some(Shape { channels: trained, .. }), None) = (trained, given.normalisation.given()) {
            ensure!(trained == channels, "these weights were trained on {trained} channels, {name} has {channels}");
        }
        (dataset.mean, dataset.std) = data::per_channel(normalisation, channels)?;
    }
    check_described(args, config, &dataset)?;
    let own = dataset.classes.len();
    let recorded = options.classes.map(|classes| classes.len()).filter(|&count| count > own);
    dataset.pad_classes(given.classes.or(recorded)).map_err(|error| UsageError(error.to_string()))?;
    Ok(dataset)
}

/// Fails if the images have another size than the weights were trained for, or more classes, unless flags say so.
fn check_described(args: &EvalArgs, config: Option<&RunConfig>, dataset: &Dataset) -> Result<()> {
    let Some((run, input)) = config.and_then(|run| Some((run, run.record.input.as_ref()?))) else { return Ok(()) };
    let (name, trained, found) = (&dataset.name, input.shape(), dataset.shape);
    let is_own = is_own(args, run);
    let same_size = (trained.height, trained.width) == (found.height, found.width);
    ensure!(
        same_size || !is_own || args.pictures.0.image_size.is_some(),
        "these weights were trained on images of {trained} (channels×height×width), but those of {name} are {found}"
    );
    let (trained, found) = (input.classes.len(), dataset.classes.len());
    ensure!(
        found <= trained || args.data.0.classes.is_some(),
        "these weights were trained for {trained} classes, but {name} has {found}"
    );
    Ok(())
}

/// Fails if flags split the run's own pictures in another way than the run did, because the test set would then contain
/// pictures that the run was trained on.
fn check_split(args: &EvalArgs, config: Option<&RunConfig>, name: &str) -> Result<()> {
    let validation = args.data.0.validation().filter(|_| args.split != SplitName::Test);
    if let (Some(run), Some(given)) = (config.filter(|run| is_own(args, run)), validation) {
        let held_out = run.load_options().validation;
        usage(held_out == Some(given), || {
            let run = held_out.map_or("none of them".into(), |it| {
                format!("those of --val-fraction {} and --val-seed {}", it.fraction, it.seed)
            });
            format!(
                "--val-fraction would evaluate on images that these weights were trained on; the run held out {run}"
            )
        })?;
    }
    let Some(run) = config.filter(|config| is_same_path(config.dataset(), name)).map(RunConfig::pictures) else {
        return Ok(());
    };
    let given = args.pictures.0.resolve_with(run.clone());
    usage((given.test_fraction, given.split_seed) == (run.test_fraction, run.split_seed), || {
        format!(
            "--test-fraction and --split-seed would test on pictures that these weights were trained on; the run split \
             {name} with --test-fraction {} and --split-seed {}",
            run.test_fraction, run.split_seed
        )
    })
}

/// Whether both are paths of the same file or folder.
fn is_same_path(a: &str, b: &str) -> bool {
    data::is_path(a)
        && data::is_path(b)
        && fs::canonicalize(a).ok().is_some_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// Whether the images to evaluate are those of the run's data set.
fn is_own(args: &EvalArgs, run: &RunConfig) -> bool {
    let own = run.dataset();
    args.data.0.dataset.as_deref().is_none_or(|given| given == own || is_same_path(given, own))
}

/// What chose the best epoch of a run, if that was the result on the images that the flags name.
fn chosen_by(args: &EvalArgs, run: &RunConfig) -> Option<Monitor> {
    let monitor = run.settings.schedule.monitor.filter(|monitor| !monitor.needs_validation());
    monitor.filter(|_| is_own(args, run) && args.split == SplitName::Test)
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

/// The number of classes of the top-5 accuracy.
const TOP: usize = 5;

/// How many values are larger than that of `index`, or equal and before it.
fn rank(values: &[f32], index: usize) -> usize {
    let is_before = |(at, value): (usize, &f32)| *value > values[index] || *value == values[index] && at < index;
    values.iter().enumerate().filter(|&it| is_before(it)).count()
}

/// Index of the maximum of finite values, the first of equals.
fn first_maximum(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best })
}

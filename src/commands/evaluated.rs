//! Trained weights and the images of a split to evaluate them on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{model_of_weights, warn_of_assumptions, weights_and_config};
use crate::checkpoint::{inspect_weights, load_weights};
use crate::data::{self, Dataset, LoadOptions, Residency, Split};
use crate::network::{Network, Weights};
use crate::settings::{
    DataSettings, Given, InputRecord, ModelSettings, PictureSettings, RunConfig, UsageError, build_network,
    check_dataset, defaults, usage,
};
use crate::shape::Shape;
use crate::train::Monitor;

/// `--split`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitName {
    Train,
    Val,
    Test,
}

impl SplitName {
    /// The split's name in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Val => "validation",
            Self::Test => "test",
        }
    }
}

/// The flags of commands that evaluate weights on a data set.
#[derive(Args)]
pub struct EvaluatedFlags {
    /// Weights (safetensors, or .pth of torch.save), or the folder of a run
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    #[command(flatten)]
    model: Given<ModelSettings>,
    #[command(flatten)]
    data: Given<DataSettings>,
    #[command(flatten)]
    pictures: Given<PictureSettings>,
    /// Images to evaluate: those of the test set, of the validation set or of the training set
    #[arg(long, value_name = "NAME", default_value = "test")]
    pub split: SplitName,
}

/// A trained network, and images to evaluate it on.
pub struct Evaluated {
    pub network: Network,
    pub weights: Weights,
    /// The images are its test set; the other sets are empty.
    pub dataset: Dataset,
    /// The configuration of the run that produced the weights, if that is known.
    pub config: Option<RunConfig>,
    /// What chose the best epoch of that run, if that was the result on these images.
    pub chosen_by: Option<Monitor>,
}

impl EvaluatedFlags {
    /// Whether a flag or the weights' run says which images to evaluate on.
    ///
    /// # Errors
    /// If the weights are missing or damaged.
    pub fn has_images(&self) -> Result<bool> {
        Ok(self.data.0.dataset.is_some() || weights_and_config(&self.weights)?.1.is_some())
    }

    /// Loads the weights without images. The network has the input and the classes of the weights' run, else those of the
    /// model.
    ///
    /// # Errors
    /// If the weights are missing, damaged, or not those of the network.
    pub fn load_network(&self) -> Result<(Network, Weights)> {
        let (path, config) = weights_and_config(&self.weights)?;
        load_network(&self.model, &path, config.as_ref())
    }

    /// Loads weights and images. The weights' metadata or the configuration next to them provides the settings that no flag
    /// gives.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the images do not fit the weights.
    pub fn load(&self) -> Result<Evaluated> {
        let (path, config) = weights_and_config(&self.weights)?;
        let (model, activation) = model_of_weights(&self.model, &path, config.as_ref())?;
        let dataset = load(self, config.as_ref())?;
        let network = build_network(model, dataset.shape, dataset.classes.len())?;
        let network = self.model.0.apply(network, activation);
        let weights = load_weights(&path, &network)?;
        if config.is_none() {
            let given = &self.data.0;
            let model = self.model.0.model.is_none().then(|| format!("the network is {} (--model)", model.name));
            let data = given.dataset.is_none().then(|| format!("the images are those of {} (--dataset)", dataset.name));
            let normalisation = given.normalisation.given().is_none();
            let normalisation =
                normalisation.then(|| format!("their mean is {:?} and std {:?}", dataset.mean, dataset.std));
            warn_of_assumptions(&path, [model, data, normalisation.map(|text| text + " (--mean and --std)")]);
        }
        // Only the weights of an evaluated epoch record it, and only in safetensors.
        let is_chosen = |_: &Monitor| inspect_weights(&path, None).is_ok_and(|weights| weights.epoch.is_some());
        let chosen_by = config.as_ref().and_then(|config| chosen_by(self, config)).filter(is_chosen);
        Ok(Evaluated { network, weights, dataset, config, chosen_by })
    }
}

/// The test set of a run, without a download.
///
/// # Errors
/// If its files are missing or damaged.
pub fn test_set(config: &RunConfig) -> Result<Dataset> {
    let (weights, model, data, pictures) = <(_, _, _, _)>::default();
    load(&EvaluatedFlags { weights, model, data, pictures, split: SplitName::Test }, Some(config))
}

/// Loads the weights in `path` into the network that flags or the configuration of their run describe, with the input and
/// the classes of that run, else those of the model.
pub(super) fn load_network(
    given: &Given<ModelSettings>,
    path: &Path,
    config: Option<&RunConfig>,
) -> Result<(Network, Weights)> {
    let (model, activation) = model_of_weights(given, path, config)?;
    let input = config.and_then(|config| config.record.input.as_ref());
    let shape = input.map_or(model.input, InputRecord::shape);
    let network = build_network(model, shape, input.map_or(model.classes, |input| input.classes.len()))?;
    let network = given.0.apply(network, activation);
    let weights = load_weights(path, &network)?;
    Ok((network, weights))
}

/// Loads the images to evaluate, as the test set, according to the flags, and otherwise as the run did.
fn load(flags: &EvaluatedFlags, config: Option<&RunConfig>) -> Result<Dataset> {
    let mut options = config.map_or_else(LoadOptions::default, RunConfig::load_options);
    let given = &flags.data.0;
    let defaults = defaults::<DataSettings>().dataset.unwrap_or_default();
    let name = given.dataset.as_deref().or(config.map(RunConfig::dataset)).unwrap_or(&defaults);
    // Check the flags before anything is downloaded.
    let checked = check_dataset(name);
    if config.is_some() && given.dataset.is_none() {
        checked.context("the weights were trained on a data set that is missing; --dataset evaluates on another")?;
    } else {
        checked?;
    }
    flags.pictures.0.check(name)?;
    check_split(flags, config, name)?;
    if given.dataset.is_some() || given.folder.data.is_some() || !options.folder.is_dir() {
        options.folder = given.folder.folder();
    }
    // A set that only a file names is read, but not downloaded.
    options.download = given.dataset.is_some();
    let trained = config.and_then(|config| config.record.input.as_ref()).map(InputRecord::shape);
    options.channels = trained.map(|trained| trained.channels);
    options.pictures = flags.pictures.0.resolve_with(options.pictures.evaluated(trained));
    let normalisation = given.normalisation.given().or(options.normalisation);
    // A single value fits any number of channels; those of the images are not known yet.
    options.normalisation = normalisation.as_ref().map(|_| (vec![0.5], vec![0.5]));
    (options.progress, options.test_only) = (true, flags.split == SplitName::Test);
    given.check()?;
    options.validation = given.validation().or(options.validation);
    options.residency = Residency::Auto;
    options.segments = given.segmentation.given_or(config.map(|config| &config.settings.data.segmentation));
    let mut dataset = data::load(name, &options)?;
    match flags.split {
        SplitName::Train => dataset.test = std::mem::take(&mut dataset.train),
        SplitName::Val => dataset.test = std::mem::take(&mut dataset.val),
        SplitName::Test => {}
    }
    let (split, needed) = (flags.split.words(), "a folder val beside train and test, or --val-fraction as in training");
    ensure!(dataset.test.count() > 0, "{name} has no {split} images for --split; they need {needed}");
    (dataset.train, dataset.val) = <(Split, Split)>::default();
    if let Some(normalisation) = normalisation {
        let channels = dataset.shape.channels;
        if let (Some(Shape { channels: trained, .. }), None) = (trained, given.normalisation.given()) {
            ensure!(trained == channels, "these weights were trained on {trained} channels, {name} has {channels}");
        }
        (dataset.mean, dataset.std) = data::per_channel(normalisation, channels)?;
    }
    check_described(flags, config, &dataset)?;
    let own = dataset.classes.len();
    let recorded = options.classes.map(|classes| classes.len()).filter(|&count| count > own);
    dataset.pad_classes(given.classes.or(recorded)).map_err(|error| UsageError(error.to_string()))?;
    Ok(dataset)
}

/// Fails if the images have another size than the weights were trained for, or more classes, unless flags say so.
fn check_described(flags: &EvaluatedFlags, config: Option<&RunConfig>, dataset: &Dataset) -> Result<()> {
    let Some((run, input)) = config.and_then(|run| Some((run, run.record.input.as_ref()?))) else { return Ok(()) };
    let (name, trained, found) = (&dataset.name, input.shape(), dataset.shape);
    let is_own = is_own(flags, run);
    let same_size = (trained.height, trained.width) == (found.height, found.width);
    ensure!(
        same_size || !is_own || flags.pictures.0.image_size.is_some(),
        "these weights were trained on images of {trained} (channels×height×width), but those of {name} are {found}"
    );
    let (trained, found) = (input.classes.len(), dataset.classes.len());
    ensure!(
        found <= trained || flags.data.0.classes.is_some(),
        "these weights were trained for {trained} classes, but {name} has {found}"
    );
    Ok(())
}

/// Fails if flags split the run's own pictures in another way than the run did, because the test set would then contain
/// pictures that the run was trained on.
fn check_split(flags: &EvaluatedFlags, config: Option<&RunConfig>, name: &str) -> Result<()> {
    let validation = flags.data.0.validation().filter(|_| flags.split != SplitName::Test);
    if let (Some(run), Some(given)) = (config.filter(|run| is_own(flags, run)), validation) {
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
    let given = flags.pictures.0.resolve_with(run.clone());
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
fn is_own(flags: &EvaluatedFlags, run: &RunConfig) -> bool {
    let own = run.dataset();
    flags.data.0.dataset.as_deref().is_none_or(|given| given == own || is_same_path(given, own))
}

/// What chose the best epoch of a run, if that was the result on the images that the flags name.
fn chosen_by(flags: &EvaluatedFlags, run: &RunConfig) -> Option<Monitor> {
    let monitor = run.settings.schedule.monitor.filter(|monitor| !monitor.needs_validation());
    monitor.filter(|_| is_own(flags, run) && flags.split == SplitName::Test)
}

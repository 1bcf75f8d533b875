//! `cnn-cuda report`, and the report at the end of `cnn-cuda train`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tracing::{info, warn};

use super::device::{Task, check_device, with_backend};
use super::evaluated::load_network;
use crate::checkpoint::{inspect_checkpoint, load_weights};
use crate::data::{self, Dataset, Residency};
use crate::network::{Network, Weights};
use crate::ops::{Backend, Normalise};
use crate::report::{Evaluation, evaluate_for_report};
use crate::run::{FolderLock, Outputs, Report};
use crate::settings::{DataFolder, DeviceSettings, Given, InputRecord, RetiredFlags, RunConfig, check_dataset};
use crate::train::{Evaluator, Trainer};

/// Images per step of an evaluation.
const BATCH: usize = 128;

/// How pages of this program begin.
const PAGE: &[u8; 15] = b"<!DOCTYPE html>";

#[derive(Args)]
pub struct ReportArgs {
    /// Folder of a run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// File to write the report to [default: report.html in the run's folder, with confusion.png]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    folder: Given<DataFolder>,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    #[command(flatten)]
    retired: RetiredFlags,
}

/// Writes the report of a run. What its folder or its data set no longer has is left out, with a warning.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    args.retired.warn();
    let folder = &args.run;
    ensure!(folder.is_dir(), "--run {} is not a folder; report takes the folder of a run", folder.display());
    args.out.as_deref().map_or(Ok(()), check_target)?;
    let config = RunConfig::read(folder).with_context(|| format!("--run {}", folder.display()))?;
    let device = args.device.or_defaults()?;
    check_device(&device)?;
    // The run's folder is written to only while no other process does.
    let _lock = match &args.out {
        None => Some(FolderLock::acquire(folder).context("--out FILE writes the report elsewhere")?),
        Some(_) => None,
    };
    let weights = weights_of(folder, &config).map_err(|error| format!("{error:#}"));
    let weights = weights.as_ref().map(|(network, weights)| (network, weights)).map_err(String::clone);
    let evaluation = weights.clone().and_then(|(network, weights)| {
        evaluate(args, &config, &device, network, weights).map_err(|error| format!("{error:#}"))
    });
    if let Err(error) = &evaluation {
        warn!("the report lacks the evaluation: {error}");
    }
    Report { folder, config: &config, evaluation, weights }.write(args.out.as_deref())?;
    let written = args.out.clone().unwrap_or_else(|| folder.join(Outputs::REPORT));
    info!("wrote {}", written.display());
    Ok(ExitCode::SUCCESS)
}

/// Fails if `--out` names something other than a new file or a page, such as the weights of a run.
fn check_target(path: &Path) -> Result<()> {
    let Ok(metadata) = path.metadata() else { return Ok(()) };
    let mut start = [0; PAGE.len()];
    let mut is_page = || File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *PAGE;
    ensure!(
        metadata.is_file() && (metadata.len() == 0 || is_page()),
        "--out {} exists and is not a report; choose another file",
        path.display()
    );
    Ok(())
}

/// The network of a run, with its weights.
fn weights_of(folder: &Path, config: &RunConfig) -> Result<(Network, Weights)> {
    ensure!(config.record.input.is_some(), "config.toml does not say what the network was trained for");
    load_network(&Given::default(), &folder.join(Outputs::WEIGHTS), Some(config))
}

fn evaluate(
    args: &ReportArgs,
    config: &RunConfig,
    device: &DeviceSettings,
    network: &Network,
    weights: &Weights,
) -> Result<Evaluation> {
    let dataset = load(args, config).context("the test images cannot be used")?;
    with_backend(device, Reported { config, network, weights, dataset })
}

/// The test images of a run.
fn load(args: &ReportArgs, config: &RunConfig) -> Result<Dataset> {
    check_dataset(config.dataset())?;
    let recorded = config.record.input.as_ref().context("the input is not known")?;
    let (mut options, shape) = (config.load_options(), recorded.shape());
    if args.folder.0.data.is_some() || !options.folder.is_dir() {
        options.folder = args.folder.0.folder();
    }
    (options.download, options.test_only, options.residency) = (false, true, Residency::Auto);
    options.channels = Some(shape.channels);
    options.pictures = options.pictures.evaluated(Some(shape));
    let mut dataset = data::load(config.dataset(), &options)?;
    dataset.pad_classes(Some(recorded.classes.len()))?;
    if let Some(difference) = recorded.difference(&InputRecord::new(&dataset)) {
        bail!("they are not those that [input] in config.toml describes: {difference}");
    }
    let checkpoint = inspect_checkpoint(&args.run.join(Outputs::CHECKPOINT));
    if let Ok(checkpoint) = checkpoint {
        checkpoint.check_test_images(dataset.test.count(), dataset.test_fingerprint())?;
    }
    Ok(dataset)
}

struct Reported<'a> {
    config: &'a RunConfig,
    network: &'a Network,
    weights: &'a Weights,
    dataset: Dataset,
}

impl Task for Reported<'_> {
    type Output = Evaluation;

    fn run<B: Backend>(self, backend: B) -> Result<Evaluation> {
        let Self { config, network, weights, mut dataset } = self;
        (dataset.train, dataset.val) = Default::default();
        Residency::Auto.place(&mut dataset, backend.device_memory().map(|[free, _]| free))?;
        let images = EvaluatedImages::of(&dataset);
        let views = config.settings.evaluation.views(None);
        let mut evaluator = Evaluator::new(backend, network, weights, dataset.test, &images.normalise, BATCH, views)?;
        images.evaluate(&mut evaluator)
    }
}

/// What a report needs to know of the images that a network is evaluated on.
pub(super) struct EvaluatedImages {
    labels: Vec<u32>,
    pub classes: Vec<String>,
    pub normalise: Normalise,
}

impl EvaluatedImages {
    pub fn of(dataset: &Dataset) -> Self {
        let normalise = Normalise { shape: dataset.shape, mean: dataset.mean.clone(), std: dataset.std.clone() };
        Self { labels: dataset.test.labels.clone(), classes: dataset.classes.clone(), normalise }
    }

    fn evaluate<B: Backend>(&self, evaluator: &mut Evaluator<B>) -> Result<Evaluation> {
        evaluate_for_report(evaluator, &self.labels, &self.classes, &self.normalise)
    }
}

/// Writes the report of a run that has just ended, whose backend evaluates the weights in its folder.
///
/// # Errors
/// The weights cannot be read, or the report cannot be written.
pub(super) fn report_of<B: Backend>(
    folder: &Path,
    config: &RunConfig,
    trainer: Trainer<B>,
    images: &EvaluatedImages,
) -> Result<()> {
    let network = trainer.network.clone();
    let weights = load_weights(&folder.join(Outputs::WEIGHTS), &network)?;
    let evaluation = images.evaluate(&mut trainer.into_evaluator(&weights)?)?;
    Report { folder, config, evaluation: Ok(evaluation), weights: Ok((&network, &weights)) }.write(None)
}

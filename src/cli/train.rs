//! `cnn-cuda train`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tracing::info;

use super::augmentation::AugmentationArgs;
use super::config::Config;
use super::dataset::{self, DatasetArgs};
use super::device::{ConvAlgo, DeviceArgs, Task, check_device, with_backend};
use super::input::InputConfig;
use super::outputs::Outputs;
use super::residency::ResidencyArgs;
use super::run::{INTERRUPTED, Run, ended_by, install_signal_handlers};
use super::variation::{ActivationArgs, Conv1, with_conv1};
use super::{build_network, find_model, flags};
use crate::checkpoint::{self, RunIdentity};
use crate::data::{self, Dataset};
use crate::network::{Network, Weights};
use crate::ops::Backend;
use crate::train::{Outcome, Schedule, Trainer};

#[derive(Args)]
pub struct TrainArgs {
    /// Recipe: a TOML file with the keys of a run's config.toml, all of which may be missing; flags go before it
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Network; see `cnn-cuda summary` [default: mnist-cnn]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub activation: ActivationArgs,
    /// How the first convolution's filters begin [default: drawn]
    #[arg(long, value_enum, value_name = "FILTERS")]
    pub conv1: Option<Conv1>,
    #[command(flatten)]
    pub data: DatasetArgs,
    #[command(flatten)]
    pub residency: ResidencyArgs,
    #[command(flatten)]
    pub augmentation: AugmentationArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Passes over the training images [default: 20]
    #[arg(long, value_name = "N", value_parser = flags::epochs, allow_negative_numbers = true)]
    pub epochs: Option<u32>,
    /// Images per optimiser step [default: 64]
    #[arg(long, value_name = "N", value_parser = flags::batch_size, allow_negative_numbers = true)]
    pub batch_size: Option<usize>,
    /// Images per evaluation step [default: 128]
    #[arg(long, value_name = "N", value_parser = flags::batch_size, allow_negative_numbers = true)]
    pub eval_batch_size: Option<usize>,
    /// Learning rate [default: 0.1]
    #[arg(long, value_name = "X", value_parser = flags::above_zero, allow_negative_numbers = true)]
    pub lr: Option<f32>,
    /// How the rate changes: constant, step:EPOCHS:FACTOR, cosine, one-cycle or one-cycle:RISE [default: constant]
    #[arg(long, value_name = "SCHEDULE")]
    pub schedule: Option<Schedule>,
    /// Epochs over which the rate first rises from nearly zero [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub warm_up: Option<u32>,
    /// SGD's momentum, as PyTorch defines it [default: 0]
    #[arg(long, value_name = "X", value_parser = flags::momentum, allow_negative_numbers = true)]
    pub momentum: Option<f32>,
    /// Nesterov's momentum
    #[arg(long)]
    pub nesterov: bool,
    /// L2 penalty, as PyTorch's SGD adds it to the gradient [default: 0]
    #[arg(long, value_name = "X", value_parser = flags::non_negative, allow_negative_numbers = true)]
    pub weight_decay: Option<f32>,
    /// Scale all gradients down so that their norm is at most this, as PyTorch's clip_grad_norm_ does
    #[arg(long, value_name = "X", value_parser = flags::above_zero, allow_negative_numbers = true)]
    pub clip_grad_norm: Option<f32>,
    /// Evaluate and save an exponential moving average of the weights: DECAY, such as 0.999, of the average stays at each step
    #[arg(long, value_name = "DECAY", value_parser = flags::fraction, allow_negative_numbers = true)]
    pub ema: Option<f64>,
    /// Part of every label that is spread over all classes, as in PyTorch's CrossEntropyLoss; the test loss is without
    /// [default: 0]
    #[arg(long, value_name = "X", value_parser = flags::part, allow_negative_numbers = true)]
    pub label_smoothing: Option<f32>,
    /// Probability of every dropout of the network, 0 for none [default: the network's own]
    #[arg(long, value_name = "P", value_parser = flags::part, allow_negative_numbers = true)]
    pub dropout: Option<f32>,
    /// Decides the initial weights and the order of the images [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Take the images in the files' order
    #[arg(long)]
    pub no_shuffle: bool,
    /// End after that many optimiser steps in all
    #[arg(long, value_name = "N", value_parser = flags::positive, allow_negative_numbers = true)]
    pub max_steps: Option<usize>,
    /// End when the test accuracy reaches this, such as 0.99, and tell the time it took
    #[arg(long, value_name = "X", value_parser = flags::accuracy, allow_negative_numbers = true)]
    pub target_accuracy: Option<f64>,
    /// End after that many epochs without a better test accuracy
    #[arg(long, value_name = "N", value_parser = flags::epochs, allow_negative_numbers = true)]
    pub patience: Option<u32>,
    /// Start from these weights (safetensors in PyTorch's names and layout)
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "init"])]
    pub resume: Option<PathBuf>,
    /// Folder for what the run leaves [default: runs/<model>-<dataset>-<seed>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Record the loss of every step in metrics.jsonl
    #[arg(long)]
    pub log_steps: bool,
    /// Print no table and no progress
    #[arg(long)]
    pub quiet: bool,
}

/// Trains, or goes on training.
pub fn run(args: TrainArgs) -> Result<ExitCode> {
    let mut config = match &args.resume {
        Some(folder) => Config::resumed(folder, &args)?,
        None => Config::new(&args)?,
    };
    if let (Some(recipe), Some(accuracy)) = (&args.config, config.expected_accuracy) {
        info!("{}: a test accuracy of {:.2}% or more is expected at its end", recipe.display(), 100.0 * accuracy);
    }
    let device = config.device(&args.device);
    // What can be wrong with the flags is told before anything is downloaded or made.
    let model = find_model(&config.model)?;
    check_device(&device)?;
    if let Some(init) = &config.init {
        ensure!(args.resume.is_some() || init.is_file(), "--init {}: there is no such file", init.display());
    }
    Outputs::check(args.out.as_deref())?;
    let dataset = load(&mut config, &args)?;
    let network = build_network(model, dataset.shape, dataset.classes.len())?;
    let network = with_conv1(args.activation.apply(network, config.activation), config.conv1).context("--conv1")?;
    let network = match config.dropout {
        Some(probability) => network.with_dropout(probability),
        None => network,
    };
    let stop = install_signal_handlers()?;
    with_backend(&device, Training { config, args, network, dataset, stop })
}

/// Reads the data set as the run began, or by the flags, and notes in the configuration what it is.
fn load(config: &mut Config, args: &TrainArgs) -> Result<Dataset> {
    let mut options = config.load_options();
    options.progress = !args.quiet;
    options.normalisation = options.normalisation.or_else(|| args.data.normalisation.given());
    let mut dataset = data::load(&config.dataset, &options)?;
    let classes = options.classes.map(|classes| classes.len()).or(args.data.classes);
    dataset::widen(&mut dataset, classes)?;
    let input = InputConfig::new(&dataset);
    match &config.input {
        Some(began) => {
            ensure!(*began == input, "the data set is not what the run began with: {began:?}, now {input:?}")
        }
        None => config.input = Some(input),
    }
    if config.pictures.is_some() {
        info!("{}, mean {:?}, standard deviation {:?}", dataset.shape, dataset.mean, dataset.std);
    }
    Ok(dataset)
}

/// The weights of `--init`.
fn initial_weights(path: &Path, network: &Network, seed: u64) -> Result<Weights> {
    let (weights, headless) = checkpoint::load_initial_weights(path, network, seed)?;
    if headless {
        info!(
            "{} is without the auxiliary heads of {}: they begin as without --init, drawn with seed {seed}",
            path.display(),
            network.name
        );
    }
    Ok(weights)
}

/// A run, before its backend is known.
struct Training {
    config: Config,
    args: TrainArgs,
    network: Network,
    dataset: Dataset,
    stop: Arc<AtomicBool>,
}

impl Task for Training {
    type Output = ExitCode;

    fn run<B: Backend>(self, backend: B) -> Result<ExitCode> {
        let Self { mut config, args, network, mut dataset, stop } = self;
        let identity = RunIdentity {
            model: config.model.clone(),
            // The files of a folder may move; their fingerprint stays.
            dataset: if config.pictures.is_some() { "pictures".into() } else { config.dataset.clone() },
            train_images: dataset.train.count(),
            data_fingerprint: dataset.fingerprint(),
            seed: config.seed,
            batch_size: config.batch_size,
            shuffle: config.shuffle,
        };
        config.residency.place(&mut dataset, backend.free_memory())?;
        // All that can be wrong with the weights is found before a folder is made for the run.
        let init = config.init.as_ref().filter(|_| args.resume.is_none());
        let initial = init.map(|path| initial_weights(path, &network, config.seed)).transpose()?;
        let mut trainer = Trainer::new(backend, network, dataset, config.hyperparameters())?;
        if config.conv_algo.unwrap_or_default() == ConvAlgo::Auto {
            config.record(trainer.backend.choices());
        }
        if let Some(weights) = initial {
            trainer.set_weights(&weights).context("--init")?;
        }
        let outputs = match &args.resume {
            None => Outputs::create(args.out.as_deref(), &config)?,
            Some(folder) => {
                let state = checkpoint::load_state(&folder.join(Outputs::CHECKPOINT), &trainer.network, &identity)?;
                trainer.restore(&state)?;
                let done = trainer.position();
                // A limit that the run has reached is not meant for what follows, unless it is asked for again.
                if args.max_steps.is_none() && config.max_steps.is_some_and(|limit| done.total_steps >= limit) {
                    config.max_steps = None;
                    trainer.set_hyper(config.hyperparameters())?;
                }
                if let Some(ending) = trainer.ending() {
                    let why = ended_by(ending);
                    info!("nothing is left to do: {} epochs, {} steps are done{why}", done.epoch, done.total_steps);
                    return Ok(ExitCode::SUCCESS);
                }
                Outputs::resume(folder, &config, done)?
            }
        };
        info!("{}: {} parameters; {}", config.model, trainer.network.parameter_count(), outputs.folder().display());
        let mut run = Run::new(outputs, identity, &config, args.quiet, trainer.steps_per_epoch(), stop);
        if args.resume.is_none() {
            run.begin(&mut trainer)?;
        }
        match trainer.run(&mut run) {
            Ok(Outcome::Finished) => {
                run.finish(trainer.ending()).with_context(|| run.failed())?;
                Ok(ExitCode::SUCCESS)
            }
            Ok(Outcome::Interrupted) => {
                run.interrupted(&mut trainer).with_context(|| run.failed())?;
                Ok(ExitCode::from(INTERRUPTED))
            }
            Err(error) => Err(error.context(run.failed())),
        }
    }
}

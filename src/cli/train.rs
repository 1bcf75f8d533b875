//! `cnn-cuda train`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tracing::info;

use super::config::Config;
use super::device::{DeviceArgs, Task, with_backend};
use super::outputs::Outputs;
use super::run::{Run, install_signal_handler};
use super::{DataArgs, build_network, flags};
use crate::checkpoint::{self, RunIdentity};
use crate::data::{self, Dataset, LoadOptions};
use crate::models;
use crate::network::Network;
use crate::ops::Backend;
use crate::train::{Outcome, Trainer};

/// Exit code of a run that was interrupted and can be resumed, as shells count Ctrl-C.
const INTERRUPTED: u8 = 130;

#[derive(Args)]
pub struct TrainArgs {
    /// Network; see `cnn-cuda summary` [default: mnist-cnn]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// `mnist`, or `digits`, which is built in and needs no files [default: mnist]
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Passes over the training images [default: 20]
    #[arg(long, value_name = "N", value_parser = flags::epochs)]
    pub epochs: Option<u32>,
    /// Images per optimiser step [default: 64]
    #[arg(long, value_name = "N", value_parser = flags::batch_size)]
    pub batch_size: Option<usize>,
    /// Images per evaluation step [default: 128]
    #[arg(long, value_name = "N", value_parser = flags::batch_size)]
    pub eval_batch_size: Option<usize>,
    /// Learning rate [default: 0.1]
    #[arg(long, value_name = "X", value_parser = flags::above_zero)]
    pub lr: Option<f32>,
    /// SGD's momentum, as PyTorch defines it [default: 0]
    #[arg(long, value_name = "X", value_parser = flags::momentum)]
    pub momentum: Option<f32>,
    /// Nesterov's momentum
    #[arg(long)]
    pub nesterov: bool,
    /// L2 penalty, as PyTorch's SGD adds it to the gradient [default: 0]
    #[arg(long, value_name = "X", value_parser = flags::non_negative)]
    pub weight_decay: Option<f32>,
    /// Decides the initial weights and the order of the images [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Take the images in the files' order
    #[arg(long)]
    pub no_shuffle: bool,
    /// End after that many optimiser steps in all
    #[arg(long, value_name = "N", value_parser = flags::positive)]
    pub max_steps: Option<usize>,
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
    let config = match &args.resume {
        Some(folder) => Config::resumed(folder, &args)?,
        None => Config::new(&args)?,
    };
    let model = models::find(&config.model)?;
    let options = LoadOptions { folder: config.data.clone(), download: true, progress: !args.quiet };
    let dataset = data::load(&config.dataset, &options)?;
    let network = build_network(model, dataset.shape, dataset.classes.len())?;
    let device = DeviceArgs {
        device: Some(config.device),
        precision: Some(config.precision),
        threads: config.threads,
        workspace_mb: args.device.workspace_mb,
    };
    install_signal_handler()?;
    with_backend(&device, Training { config, args, network, dataset })
}

/// A run, before its backend is known.
struct Training {
    config: Config,
    args: TrainArgs,
    network: Network,
    dataset: Dataset,
}

impl Task for Training {
    type Output = ExitCode;

    fn run<B: Backend>(self, backend: B) -> Result<ExitCode> {
        let Self { config, args, network, dataset } = self;
        let identity = RunIdentity {
            model: config.model.clone(),
            dataset: config.dataset.clone(),
            train_images: dataset.train.count(),
            seed: config.seed,
            batch_size: config.batch_size,
            shuffle: config.shuffle,
        };
        // All that can be wrong with the weights is found before a folder is made for the run.
        let initial = config.init.as_ref().map(|path| checkpoint::load_weights(path, &network)).transpose()?;
        let mut trainer = Trainer::new(backend, network, dataset, config.hyperparameters())?;
        if let Some(parameters) = initial {
            trainer.set_parameters(&parameters).context("--init")?;
        }
        let outputs = match &args.resume {
            None => Outputs::create(args.out.as_deref(), &config)?,
            Some(folder) => {
                let state = checkpoint::load_state(&folder.join(Outputs::CHECKPOINT), &trainer.network, &identity)?;
                trainer.restore(&state)?;
                Outputs::resume(folder, &config, trainer.position())?
            }
        };
        info!("{}: {} parameters; {}", config.model, trainer.network.parameter_count(), outputs.folder().display());
        let mut run = Run::new(outputs, identity, &config, args.quiet, trainer.steps_per_epoch());
        if trainer.position().epoch >= config.epochs {
            info!("{} epochs are done already; --epochs asks for {}", trainer.position().epoch, config.epochs);
        }
        match trainer.run(&mut run).with_context(|| run.how_to_go_on())? {
            Outcome::Finished => {
                run.finish();
                Ok(ExitCode::SUCCESS)
            }
            Outcome::Interrupted => {
                run.interrupted(&mut trainer)?;
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    }
}

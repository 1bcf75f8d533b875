//! `cnn-cuda train`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tracing::{info, warn};

use super::device::{Task, check_device, with_backend};
use super::report::{EvaluatedImages, report_of};
use super::{find_model, pretrained};
use crate::checkpoint::{self, RunIdentity};
use crate::data::{self, Dataset};
use crate::files::printable;
use crate::models::{Model, has_own_rule};
use crate::network::{FirstLayer, Network, Weights};
use crate::ops::Backend;
use crate::report::ProgressMode;
use crate::run::{
    Display, FolderLock, INTERRUPTED, Outputs, RunObserver, damaged_outputs, ended_by, folder_to_resume, identity,
    identity_without_data, install_signal_handlers, progress_made,
};
use crate::settings::{
    ConvAlgo, InputRecord, Layer, ResidencyFlags, RetiredFlags, RunConfig, UsageError, build_network, check_weights,
};
use crate::train::{Ending, Learned, LearnedLayer, Outcome, Position, Trainer, learn_cells};

#[derive(Args)]
pub struct TrainArgs {
    /// Recipe: a TOML file with settings, such as a run's config.toml; flags override it, and --no-FLAG switches off
    /// what it switches on
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Layer,
    #[command(flatten)]
    pub residency: ResidencyFlags,
    #[command(flatten)]
    pub retired: RetiredFlags,
    /// Resume the run in this folder, or the run that this file in its folder belongs to
    #[arg(long, value_name = "DIR", help_heading = "Output", conflicts_with_all = ["out", "init", "pretrained"])]
    pub resume: Option<PathBuf>,
    /// Folder for the files of the run [default: runs/MODEL-DATASET-SEED]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// What to show of the current epoch, besides the table of epochs
    #[arg(long, value_enum, value_name = "HOW", default_value = "bar", help_heading = "Output")]
    pub progress: ProgressMode,
    /// Same as --progress none
    #[arg(long, help_heading = "Output", conflicts_with = "progress")]
    pub quiet: bool,
}

impl TrainArgs {
    pub fn progress(&self) -> ProgressMode {
        if self.quiet { ProgressMode::None } else { self.progress }
    }
}

/// Starts or resumes a training run.
pub fn run(args: TrainArgs, coloured: bool) -> Result<ExitCode> {
    args.retired.warn();
    let stop = install_signal_handlers()?;
    let mut flags = args.settings.clone();
    let residency = &mut flags.given.residency.residency;
    *residency = args.residency.given().or(*residency);
    let (lock, mut config) = match &args.resume {
        Some(given) => {
            let folder = folder_to_resume(given)?;
            let lock = Outputs::lock(&folder)?;
            let config = RunConfig::resumed(&folder, &flags)?;
            // Before anything is loaded according to an edited value.
            checkpoint::check_settings(&folder.join(Outputs::CHECKPOINT), &identity_without_data(&config)?)?;
            (Some(lock), config)
        }
        None => (None, RunConfig::new(&flags, args.config.as_deref())?),
    };
    if let (Some(recipe), Some(accuracy)) = (&args.config, config.record.expected_accuracy) {
        info!("{}: the expected final test accuracy is at least {:.2}%", recipe.display(), 100.0 * accuracy);
    }
    let device = config.device();
    // Check the flags before anything is downloaded or created.
    let model = find_model(config.model())?;
    check_device(&device)?;
    pretrained::check_model(&config)?;
    if let (Some(init), None) = (&mut config.settings.schedule.init, &args.resume) {
        *init = Outputs::weights_file("--init", init)?;
    }
    Outputs::check(args.out.as_deref())?;
    let has_bars = args.progress().has_bars();
    let dataset = load(&mut config, has_bars)?;
    let pretrained = if args.resume.is_none() { pretrained::find(&config, has_bars)? } else { None };
    let network = network_of(&config, model, &dataset)?;
    with_backend(&device, Training { config, args, coloured, network, dataset, pretrained, lock, stop })
}

/// The network of a run, with its frozen parts and groups of parameters.
pub(super) fn network_of(config: &RunConfig, model: &Model, dataset: &Dataset) -> Result<Network> {
    let network = build_network(model, dataset.shape, dataset.classes.len())?;
    let network = config.settings.model.apply(network, None);
    let mut network = config.settings.variation.apply(network)?;
    if let Some(prefixes) = &config.settings.finetuning.freeze {
        network = network.with_frozen(prefixes).map_err(|error| UsageError(format!("--freeze {prefixes}: {error}")))?;
        warn_of_frozen_noise(config);
    }
    // The groups keep frozen parameters first.
    config.settings.optimiser.group(network)
}

/// Loads the data set, with the recorded input of a resumed run, and records its input in the configuration.
pub(super) fn load(config: &mut RunConfig, has_bars: bool) -> Result<Dataset> {
    let mut options = config.load_options();
    options.progress = has_bars;
    let mut dataset = data::load(config.dataset(), &options)?;
    let classes = options.classes.map(|classes| classes.len()).or(config.settings.data.classes);
    dataset.pad_classes(classes).map_err(|error| UsageError(error.to_string()))?;
    if let Some(warning) = config.settings.schedule.choose_monitor(dataset.val.count() > 0)? {
        warn!("{warning}");
    }
    pretrained::normalise(config, &mut dataset)?;
    weigh_classes(config, &dataset)?;
    let input = InputRecord::new(&dataset);
    match &config.record.input {
        Some(recorded) => {
            if let Some(difference) = recorded.difference(&input) {
                let dataset = config.dataset();
                bail!("the data set {dataset} is not the one that [input] in config.toml describes: {difference}");
            }
        }
        None => config.record.input = Some(input),
    }
    if config.has_pictures() {
        let rounded = |values: &[f32]| values.iter().map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(", ");
        let (mean, std) = (rounded(&dataset.mean), rounded(&dataset.std));
        info!("images of {} (channels×height×width), mean {mean}, standard deviation {std}", dataset.shape);
    }
    Ok(dataset)
}

/// The weights of `--init` or `--pretrained`, whose file is `pretrained`; `None` for random ones.
pub(super) fn initial_weights(
    config: &RunConfig,
    network: &Network,
    dataset: &Dataset,
    pretrained: Option<&Path>,
) -> Result<Option<Weights>> {
    let given = config.settings.schedule.init.as_deref().or(pretrained);
    if let (Some(path), true) = (given, network.first_layer != FirstLayer::Drawn) {
        warn!(
            "the filters of the first convolution are those of {}, not the ones that --conv1 computes",
            path.display()
        );
    }
    match (&config.settings.schedule.init, pretrained) {
        (Some(path), _) => pretrained::load_initial(path, network, config.seed()).map(Some),
        (None, Some(path)) => pretrained::load(path, network, dataset, config.seed()).map(Some),
        (None, None) => Ok(None),
    }
}

/// A trainer with the settings of a run, and with these initial weights, if they are not random.
pub(super) fn trainer_of<B: Backend>(
    backend: B,
    config: &RunConfig,
    network: Network,
    mut dataset: Dataset,
    initial: Option<Weights>,
) -> Result<Trainer<B>> {
    let free = backend.device_memory().map(|[free, _]| free);
    config.settings.residency.residency.unwrap_or_default().place(&mut dataset, free)?;
    let mut trainer = Trainer::new(backend, network, dataset, config.hyperparameters())?;
    if let Some(weights) = initial {
        trainer.set_weights(&weights).context("initial weights")?;
    }
    if let Some(weights) = &config.record.loss_weights {
        trainer.backend.set_class_weights(weights)?;
    }
    Ok(trainer)
}

/// Records the weights of the classes in the loss, unless they are those of a resumed run or a recipe.
fn weigh_classes(config: &mut RunConfig, dataset: &Dataset) -> Result<()> {
    let Some(given) = &config.settings.optimiser.class_weights else { return Ok(()) };
    let weights = match &config.record.loss_weights {
        Some(recorded) => recorded.clone(),
        None => given.resolve(&dataset.classes, &dataset.train.labels)?,
    };
    check_weights(&weights, dataset.classes.len())?;
    let by_weight = |a: &usize, b: &usize| weights[*a].total_cmp(&weights[*b]);
    let least = (0..weights.len()).min_by(by_weight).unwrap_or_default();
    let most = (0..weights.len()).max_by(by_weight).unwrap_or_default();
    let shown = |class: usize| format!("{} ({})", weights[class], printable(&dataset.classes[class]));
    info!("weights of the classes in the loss: from {} to {}", shown(least), shown(most));
    config.record.loss_weights = Some(weights);
    Ok(())
}

/// Warns that a run keeps random weights.
fn warn_of_frozen_noise(config: &RunConfig) {
    let settings = &config.settings;
    if settings.schedule.init.is_none() && settings.finetuning.pretrained.is_none() {
        warn!("--freeze without --pretrained or --init keeps weights that were never trained");
    }
}

/// Logs that a run to resume is complete.
fn log_completed(config: &RunConfig, ending: Ending, done: Position) {
    let is_fixed = config.settings.schedule.depends_on_epochs() || has_own_rule(config.model());
    let may_continue = ending == Ending::Epochs && !is_fixed;
    let longer = match ending {
        Ending::MaxSteps => "; to train longer: --no-max-steps, or --max-steps N",
        _ if may_continue => "; to train longer: --epochs N",
        _ => "",
    };
    info!("nothing left to do after {}{}{longer}", progress_made(done), ended_by(ending));
}

/// A training run, to be executed on the chosen backend.
struct Training {
    config: RunConfig,
    args: TrainArgs,
    coloured: bool,
    network: Network,
    dataset: Dataset,
    /// The file of `--pretrained`, for a new run.
    pretrained: Option<PathBuf>,
    /// The lock of the folder of a run to resume.
    lock: Option<FolderLock>,
    stop: Arc<AtomicBool>,
}

impl Task for Training {
    type Output = ExitCode;

    fn run<B: Backend>(self, backend: B) -> Result<ExitCode> {
        let Self { mut config, args, coloured, network, dataset, pretrained, lock, stop } = self;
        let (mut backend, identity) = (backend, identity(&config, &dataset)?);
        // Check the weights before creating the run's folder.
        let initial = match &lock {
            None if network.has_cells() => Some(learn(&mut backend, &config, &network, &dataset, &stop)?),
            None => initial_weights(&config, &network, &dataset, pretrained.as_deref())?,
            Some(_) => None,
        };
        let reports = config.settings.output.report.unwrap_or_default();
        let (images, labels) = (EvaluatedImages::of(&dataset), dataset.train.labels.clone());
        let mut trainer = trainer_of(backend, &config, network, dataset, initial)?;
        config.record_environment(&trainer.backend.info().name);
        if config.settings.device.conv_algo.unwrap_or_default() == ConvAlgo::Auto {
            config.record_choices(trainer.backend.choices());
        }
        let is_new = lock.is_none();
        let outputs = match lock {
            None => Outputs::create(args.out.as_deref(), &config)?,
            Some(lock) => match resume(lock, &config, &mut trainer, &identity)? {
                Some(outputs) => outputs,
                None => return Ok(ExitCode::SUCCESS),
            },
        };
        if let Some(optimiser) = config.settings.optimiser.describe() {
            info!("{optimiser}");
        }
        let head_scale = trainer.network.group_rules.head_rate_scale;
        if let Some(head) = trainer.network.head().filter(|_| head_scale != 1.0) {
            info!("the learning rate of the head, {head}, is multiplied by {head_scale}");
        }
        let (count, frozen) = (trainer.network.parameter_count(), trainer.network.frozen_len());
        let fixed = match frozen {
            0 => String::new(),
            _ if trainer.network.has_cells() => "; this run counts its errors".into(),
            _ => format!(", of which {frozen} are frozen"),
        };
        info!("{}: {count} parameters{fixed}; {}", config.model(), outputs.folder().display());
        let records = outputs.metrics.epochs();
        let display = Display::new(args.progress(), coloured, &config, &identity, &trainer, records);
        let mut observer = RunObserver::new(outputs, identity, &config, display, stop);
        observer.begin(&mut trainer, is_new)?;
        if is_new && reports {
            observer.write_batch(trainer.first_batch(), &images.normalise, &labels, &images.classes);
        }
        match trainer.run(&mut observer) {
            Ok(Outcome::Finished) => {
                observer.finish(&mut trainer).with_context(|| observer.failed())?;
                if reports {
                    observer.report(|folder| report_of(folder, &config, trainer, &images));
                }
                Ok(ExitCode::SUCCESS)
            }
            Ok(Outcome::Interrupted) => {
                observer.interrupted(&mut trainer).with_context(|| observer.failed())?;
                Ok(ExitCode::from(INTERRUPTED))
            }
            Err(error) => Err(error.context(observer.failed())),
        }
    }
}

/// The weights of a network that learns by the rule of its cells. The run then only counts its errors.
fn learn<B: Backend>(
    backend: &mut B,
    config: &RunConfig,
    network: &Network,
    dataset: &Dataset,
    stop: &AtomicBool,
) -> Result<Weights> {
    info!("{}: the cells learn by their own rule, without gradients", config.model());
    let start = Instant::now();
    let shuffle = config.hyperparameters().shuffle;
    let learned = learn_cells(backend, network, dataset, config.seed(), shuffle, || stop.load(Ordering::Relaxed))?;
    let Learned { weights, layers } =
        learned.context("interrupted while the cells were learning, before there was anything to save; start again")?;
    for LearnedLayer { name, features, capacity, images } in layers {
        let full = if features == capacity { ", all that it has room for" } else { "" };
        info!("{name}: {features} features{full}, from {images} images");
    }
    info!("the cells have learned in {:.1} s", start.elapsed().as_secs_f64());
    Ok(weights)
}

/// Restores the state of a run. `None` if nothing is left to do; its missing or damaged files are then written again.
fn resume<B: Backend>(
    lock: FolderLock,
    config: &RunConfig,
    trainer: &mut Trainer<B>,
    identity: &RunIdentity,
) -> Result<Option<Outputs>> {
    let folder = lock.folder().to_path_buf();
    let state = checkpoint::load_state(&folder.join(Outputs::CHECKPOINT), &trainer.network, identity)?;
    trainer.restore(&state)?;
    let done = trainer.position();
    let Some(ending) = trainer.ending() else {
        let outputs = Outputs::resume(lock, config, done)?;
        outputs.remove_report()?;
        outputs.warn_without_best(&trainer.network, state.chosen);
        return Ok(Some(outputs));
    };
    let damaged = damaged_outputs(&folder, &trainer.network, &state, config);
    if !damaged.is_empty() {
        let mut outputs = Outputs::resume(lock, config, done)?;
        if let Some(chosen) = state.chosen.filter(|chosen| chosen.epoch == outputs.metrics.last_epoch()) {
            outputs.keep_epoch(chosen.epoch, true, &state);
        }
        outputs.save(&trainer.network, identity, state.clone())?;
        outputs.finish()?;
        let left = damaged_outputs(&folder, &trainer.network, &state, config);
        ensure!(
            !left.contains(&Outputs::WEIGHTS),
            "{} in {} is missing or damaged, and cannot be written again: the checkpoint has the weights of the last \
             epoch only; {} has them, too",
            Outputs::WEIGHTS,
            folder.display(),
            Outputs::LAST
        );
        let (was, is) = if damaged.len() == 1 { ("was", "is") } else { ("were", "are") };
        let (names, shown) = (damaged.join(", "), folder.display());
        warn!("{names} in {shown} {was} missing, damaged or incomplete, and {is} written again");
    }
    log_completed(config, ending, done);
    Ok(None)
}

//! The weights of `--pretrained` and `--init`: where they are, what they were trained on, and which layers they do not fit.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tracing::{info, warn};

use crate::checkpoint::{self, FineTuned, NewHead, weights_description};
use crate::data::Dataset;
use crate::network::{Network, Weights};
use crate::run::Outputs;
use crate::settings::{InputRecord, RunConfig, UsageError};
use crate::shape::Shape;

/// Fails if `--pretrained` names weights of another network than that of the run.
pub(super) fn check_model(config: &RunConfig) -> Result<()> {
    let Some(known) = config.settings.finetuning.known() else { return Ok(()) };
    ensure!(
        known.model == config.model(),
        UsageError(format!(
            "--pretrained {} are weights of {1}, but the network is {2}; add --model {1}",
            known.name,
            known.model,
            config.model()
        ))
    );
    Ok(())
}

/// The file of `--pretrained`, which is downloaded if it is that of known weights; `None` if the flag is not given.
pub(super) fn find(config: &RunConfig, progress: bool) -> Result<Option<PathBuf>> {
    let finetuning = &config.settings.finetuning;
    if let Some(known) = finetuning.known() {
        return known.fetch(&config.settings.data.folder.folder(), progress).map(Some);
    }
    finetuning.pretrained.as_deref().map(|path| Outputs::weights_file("--pretrained", Path::new(path))).transpose()
}

/// Normalises the images like those that known weights were trained on, unless the run has a normalisation already.
///
/// # Errors
/// The images have another number of channels.
pub(super) fn normalise(config: &RunConfig, dataset: &mut Dataset) -> Result<()> {
    let (data, input) = (&config.settings.data, &config.record.input);
    let Some(known) = config.settings.finetuning.known() else { return Ok(()) };
    if data.normalisation.given().is_some() || input.is_some() {
        return Ok(());
    }
    let (mean, std) = known.normalisation();
    let (name, channels) = (known.name, dataset.shape.channels);
    ensure!(
        channels == mean.len(),
        "the weights {name} are for images of {} channels, but those of {} have {channels}",
        mean.len(),
        dataset.name
    );
    info!("mean {mean:?} and std {std:?} are those of the weights {name} (--mean and --std)");
    (dataset.mean, dataset.std) = (mean, std);
    Ok(())
}

/// Loads the weights of `--pretrained`, and logs which layers they do not fit and how the run's images differ from those
/// of the weights.
pub(super) fn load(path: &Path, network: &Network, dataset: &Dataset, seed: u64) -> Result<Weights> {
    let shown = path.display();
    if let Some(description) = weights_description(path)? {
        warn_of_other_input(path, &InputRecord::of_weights(&description)?, dataset);
    }
    let FineTuned { weights, new_heads, lacks_auxiliary } = checkpoint::load_for_finetuning(path, network, seed)?;
    for NewHead { layer, shapes: [theirs, ours] } in new_heads {
        info!("{layer} is {ours:?}, but {theirs:?} in {shown}: it starts from the initial values of seed {seed}");
    }
    log_auxiliary(path, network, lacks_auxiliary, seed);
    Ok(weights)
}

/// Loads the weights of `--init`.
pub(super) fn load_initial(path: &Path, network: &Network, seed: u64) -> Result<Weights> {
    let (weights, lacks_auxiliary) = checkpoint::load_pretrained(path, network, seed)?;
    log_auxiliary(path, network, lacks_auxiliary, seed);
    Ok(weights)
}

fn log_auxiliary(path: &Path, network: &Network, lacks_auxiliary: bool, seed: u64) {
    if lacks_auxiliary {
        info!(
            "{} lacks the auxiliary classifiers of {}: they are initialised with seed {seed}",
            path.display(),
            network.name
        );
    }
}

fn warn_of_other_input(path: &Path, theirs: &InputRecord, dataset: &Dataset) {
    let (shown, shape, normalisation) = (path.display(), theirs.shape(), theirs.normalisation());
    let size = |shape: Shape| format!("{}×{}", shape.height, shape.width);
    if size(shape) != size(dataset.shape) {
        let ours = size(dataset.shape);
        warn!("{shown} was trained on images of {} (height×width), this run has {ours}", size(shape));
    }
    if normalisation != (dataset.mean.clone(), dataset.std.clone()) {
        let ((mean, std), ours) = (normalisation, (&dataset.mean, &dataset.std));
        warn!(
            "{shown} was trained with mean {mean:?} and std {std:?}, this run has {:?} and {:?} (--mean and --std)",
            ours.0, ours.1
        );
    }
}

//! Which weights of a run are kept in files: those of the last step, of the best epoch, and of several epochs.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::checkpoint::{inspect_weights, load_weights};
use crate::network::{Network, Statistics};
use crate::report::{EpochRecord, MetricsLog};
use crate::settings::{Keep, RunConfig, short_name};
use crate::train::{Chosen, Monitor};

/// Which weights of a run are kept beside those of the last step.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub monitor: Option<Monitor>,
    /// Whether `model.safetensors` has the weights of the best epoch, and `last.safetensors` those of the last step.
    pub is_best: bool,
    /// The number of epochs whose weights are kept in files of their own.
    pub epochs: usize,
}

impl Kept {
    pub fn of(config: &RunConfig) -> Self {
        let (monitor, keep) = (config.settings.schedule.monitor, config.settings.output.keep.unwrap_or_default());
        let epochs = if let Keep::Epochs(epochs) = keep { epochs as usize } else { 0 };
        Self { monitor, is_best: monitor.is_some() && keep != Keep::Last, epochs }
    }

    /// The epochs whose weights have files of their own.
    pub fn epochs_of(self, metrics: &MetricsLog) -> Vec<u32> {
        let mut epochs = metrics.epochs();
        if let Some(monitor) = self.monitor {
            // The sort is stable: of equal epochs, the first is the better.
            let value = |epoch: &EpochRecord| epoch.monitored(monitor).unwrap_or(f64::NAN);
            epochs.sort_by(|a, b| {
                let order = value(a).total_cmp(&value(b));
                if monitor.is_loss() { order } else { order.reverse() }
            });
        } else {
            epochs.reverse();
        }
        epochs.iter().take(self.epochs).map(|epoch| epoch.epoch).collect()
    }
}

/// The weights after an evaluated epoch.
pub(super) struct EpochWeights {
    pub epoch: u32,
    pub is_best: bool,
    pub parameters: Vec<f32>,
    pub statistics: Statistics,
}

/// What a run is called.
pub(super) fn title(config: &RunConfig) -> String {
    format!("{} on {}, seed {}", config.model(), short_name(config.dataset()), config.seed())
}

/// The name of the file with an epoch's weights.
pub(super) fn epoch_file(epoch: u32) -> String {
    format!("epoch-{epoch}.safetensors")
}

/// Fails if the file at `path` does not have the weights of the best epoch, or of a later one that a run had found to be
/// better before it was killed.
pub(super) fn check_best(path: &Path, network: &Network, chosen: Chosen) -> Result<()> {
    load_weights(path, network)?;
    check_epoch(inspect_weights(path, None)?.epoch, chosen)
}

/// The same for weights that are known to be from `epoch`.
pub(super) fn check_epoch(epoch: Option<u32>, chosen: Chosen) -> Result<()> {
    let of = epoch.map_or("no recorded epoch".into(), |epoch| format!("epoch {epoch}"));
    ensure!(epoch >= Some(chosen.epoch), "its weights are of {of}, not of the best, {}", chosen.epoch);
    Ok(())
}

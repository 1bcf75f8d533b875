//! Fine-tuning: pretrained weights, and what of the network is kept fixed.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::data::absolute_path;
use super::{bounds, suggestion, usage};
use crate::data::pretrained::{self, KnownWeights};
use crate::train::Hyperparameters;

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Fine-tuning")]
pub struct FineTuningSettings {
    /// Start from these weights, but with a new last layer if it has another shape: a file (safetensors, or .pth of
    /// torch.save), the folder of a run, or the name of known weights, such as resnet18
    #[arg(long, value_name = "FILE|NAME")]
    pub pretrained: Option<String>,
    /// Keep these layers fixed, with batch normalisations in evaluation mode: names of layers or modules, such as
    /// conv1,layer1, or `backbone` for all but the last layer
    #[arg(long, value_name = "PREFIX,…|backbone")]
    pub freeze: Option<String>,
    /// Keep nothing fixed from this epoch on, counted from 1
    #[arg(long, value_name = "EPOCH", value_parser = bounds::epochs, allow_negative_numbers = true)]
    pub unfreeze_at: Option<u32>,
}

impl FineTuningSettings {
    pub fn apply(&self, hyper: &mut Hyperparameters) {
        hyper.unfreeze_at = self.unfreeze_at;
    }

    /// The known weights that `--pretrained` names; `None` if it is a path, or not given.
    pub fn known(&self) -> Option<&'static KnownWeights> {
        self.pretrained.as_deref().filter(|given| !Path::new(given).exists()).and_then(pretrained::find)
    }

    /// Makes the path of `--pretrained` absolute, so that it stays valid in another working directory.
    ///
    /// # Errors
    /// It is neither a path that exists nor a known name.
    pub(super) fn resolve(&mut self) -> Result<()> {
        let Some(given) = &self.pretrained else { return Ok(()) };
        let is_path = Path::new(given).exists();
        usage(is_path || pretrained::find(given).is_some(), || {
            let (names, meant) = (pretrained::names(), suggestion(given, pretrained::names()));
            format!(
                "--pretrained {given}: there is no such file, and no known weights of that name; those are {}{meant}",
                names.join(", ")
            )
        })?;
        if is_path {
            if pretrained::find(given).is_some() {
                tracing::info!("--pretrained {given} is the file or folder of that name, not the known weights");
            }
            let path = absolute_path(Path::new(given))?;
            let text = path.to_str().with_context(|| format!("--pretrained {given}: the path is not UTF-8"))?;
            self.pretrained = Some(text.into());
        }
        Ok(())
    }

    /// # Errors
    /// Settings that contradict each other, in a run of `epochs` epochs.
    pub fn check(&self, epochs: u32) -> Result<()> {
        let Some(epoch) = self.unfreeze_at else { return Ok(()) };
        usage(self.freeze.is_some(), || "--unfreeze-at needs --freeze".into())?;
        usage((2..=epochs).contains(&epoch), || {
            format!("--unfreeze-at {epoch} must be from 2, the second epoch, to the last of {epochs} epochs")
        })
    }
}

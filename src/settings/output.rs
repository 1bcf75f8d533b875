//! Optional output of a run.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::train::Hyperparameters;

/// Settings of this group that may change when a run is resumed.
pub(super) const CHANGEABLE: &[&str] = &["log-steps"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Output")]
pub struct OutputSettings {
    /// Record the loss of every step in metrics.jsonl
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub log_steps: Option<bool>,
}

impl OutputSettings {
    pub fn apply(&self, hyper: &mut Hyperparameters) {
        hyper.log_steps = self.log_steps.unwrap_or_default();
    }
}

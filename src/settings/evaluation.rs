//! How weights are evaluated.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::ops::TestViews;

/// As [`super::optimiser::NEWER`].
pub(super) const NEWER: &[&str] = &["tta"];

/// The argument of these settings.
pub const VIEWS: &str = "tta";

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Augmentation")]
pub struct EvaluationSettings {
    /// Test-time augmentation: average the logits of several views of each image, in all evaluations of a run and, unless
    /// another is given, of its weights by eval and predict [default: none]
    #[arg(long, value_enum, value_name = "VIEWS", default_value = "none", hide_default_value = true)]
    pub tta: Option<TestViews>,
}

impl EvaluationSettings {
    /// The views that are given, else those of a run.
    pub fn views(&self, run: Option<&Self>) -> TestViews {
        self.tta.or_else(|| run?.tta).unwrap_or_default()
    }
}

//! Which evaluation of a run is its best.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ops::Metrics;

/// The number by which epochs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Monitor {
    ValLoss,
    ValAccuracy,
    TestLoss,
    TestAccuracy,
}

impl Monitor {
    pub const ALL: [Self; 4] = [Self::ValLoss, Self::ValAccuracy, Self::TestLoss, Self::TestAccuracy];

    /// The name of the setting's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::ValLoss => "val-loss",
            Self::ValAccuracy => "val-accuracy",
            Self::TestLoss => "test-loss",
            Self::TestAccuracy => "test-accuracy",
        }
    }

    /// The same in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::ValLoss => "validation loss",
            Self::ValAccuracy => "validation accuracy",
            Self::TestLoss => "test loss",
            Self::TestAccuracy => "test accuracy",
        }
    }

    /// Whether it is a number of the validation set.
    pub fn needs_validation(self) -> bool {
        matches!(self, Self::ValLoss | Self::ValAccuracy)
    }

    pub fn is_loss(self) -> bool {
        matches!(self, Self::ValLoss | Self::TestLoss)
    }

    /// Its value in an evaluation; `None` if it needs a validation set and there is none.
    pub fn value(self, val: Option<Metrics>, test: Metrics) -> Option<f64> {
        let metrics = if self.needs_validation() { val? } else { test };
        Some(if self.is_loss() { metrics.loss() } else { metrics.accuracy() })
    }

    /// Whether `value` is better than `other`.
    pub fn is_better(self, value: f64, other: f64) -> bool {
        if self.is_loss() { value < other } else { value > other }
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Monitor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|it| it.name() == text).ok_or_else(|| format!("it must be one of: {names}"))
    }
}

impl From<Monitor> for String {
    fn from(monitor: Monitor) -> Self {
        monitor.to_string()
    }
}

impl TryFrom<String> for Monitor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

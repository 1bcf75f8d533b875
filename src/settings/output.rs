//! Optional output of a run.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::train::Hyperparameters;

/// Settings of this group that may change when a run is resumed.
pub(super) const CHANGEABLE: &[&str] = &["log-steps", "report", "save-every"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Output")]
pub struct OutputSettings {
    /// Record the loss of every step in metrics.jsonl
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "false")]
    pub log_steps: Option<bool>,
    /// Also save within epochs: every N steps, or with `Nm` every N minutes
    #[arg(long, value_name = "STEPS|MINUTESm", allow_negative_numbers = true)]
    pub save_every: Option<SaveEvery>,
    /// Weights to keep: `best`, those of the best epoch by --monitor and of the last; `last`, only those of the last; or
    /// those of the N best epochs, too (without --monitor, of the last N), as epoch-N.safetensors [default: best]
    #[arg(long, value_name = "best|last|N", allow_negative_numbers = true)]
    pub keep: Option<Keep>,
    /// At the end, evaluate the weights once more for report.html and confusion.png; also write train_batch.png;
    /// --no-report leaves out all three
    #[arg(long, num_args = 0, default_missing_value = "true", default_value = "true")]
    pub report: Option<bool>,
}

/// `--keep`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Keep {
    #[default]
    Best,
    Last,
    Epochs(u32),
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("best", _) => Ok(Self::Best),
            ("last", _) => Ok(Self::Last),
            (_, Ok(epochs @ 1..)) => Ok(Self::Epochs(epochs)),
            _ => Err("it must be best, last, or a number of epochs, such as 3".into()),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Last => f.write_str("last"),
            Self::Epochs(epochs) => write!(f, "{epochs}"),
        }
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> Self {
        keep.to_string()
    }
}

impl TryFrom<String> for Keep {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl OutputSettings {
    pub fn apply(&self, hyper: &mut Hyperparameters) {
        hyper.log_steps = self.log_steps.unwrap_or_default();
    }
}

/// `--save-every`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum SaveEvery {
    Steps(u32),
    Minutes(u32),
}

impl SaveEvery {
    /// Whether to save after `total_steps`, when the last save is so long ago.
    pub fn is_due(self, total_steps: u64, since_last: Duration) -> bool {
        match self {
            Self::Steps(steps) => total_steps.is_multiple_of(steps.into()),
            Self::Minutes(minutes) => since_last >= Duration::from_secs(60 * u64::from(minutes)),
        }
    }
}

impl FromStr for SaveEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, every): (_, fn(u32) -> Self) = match text.strip_suffix('m') {
            Some(minutes) => (minutes, Self::Minutes),
            None => (text, Self::Steps),
        };
        let number = number.parse().ok().filter(|&number| number > 0);
        number.map(every).ok_or_else(|| "it must be a number of steps, such as 500, or of minutes, such as 10m".into())
    }
}

impl fmt::Display for SaveEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Minutes(minutes) => write!(f, "{minutes}m"),
        }
    }
}

impl From<SaveEvery> for String {
    fn from(every: SaveEvery) -> Self {
        every.to_string()
    }
}

impl TryFrom<String> for SaveEvery {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

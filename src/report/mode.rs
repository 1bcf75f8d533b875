//! How a run shows its progress.

use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use console::is_dumb;

/// `--progress`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar for the current epoch
    #[default]
    Bar,
    /// The whole terminal: curves, speed, time left, messages; with less than 80 columns or 20 rows the bar
    Dashboard,
    /// A line every 30 seconds, without control characters
    Plain,
    /// No progress, and no table of epochs
    None,
}

impl ProgressMode {
    /// What stderr can show: a terminal that interprets no control characters (`TERM=dumb`, or no `TERM`) gets lines.
    /// A file or pipe gets lines only if they are asked for.
    pub fn for_stderr(self) -> Self {
        self.on(stderr().is_terminal(), is_dumb())
    }

    fn on(self, is_terminal: bool, is_dumb: bool) -> Self {
        match self {
            Self::Bar | Self::Dashboard if is_terminal && is_dumb => Self::Plain,
            Self::Dashboard if !is_terminal => Self::Bar,
            mode => mode,
        }
    }

    /// Whether bars may be shown, such as those of downloads.
    pub fn has_bars(self) -> bool {
        matches!(self, Self::Bar | Self::Dashboard)
    }
}

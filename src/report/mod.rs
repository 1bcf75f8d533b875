//! Reports of a run: the console's table and progress bar, the dashboard, `metrics.jsonl`, `curves.svg`, the confusion matrix,
//! `lr-find.svg`.

mod axis;
mod confusion;
mod console;
pub mod cover;
mod curves;
mod dashboard;
mod metrics;
mod mode;
mod range;
mod records;
pub mod stream;

pub use confusion::{ClassScores, Confusion};
pub use console::{Progress, ProgressLines, Table, grouped, loss, percent};
pub use curves::curves_svg;
pub use dashboard::{Dashboard, LEAST_COLUMNS, LEAST_ROWS, RunFacts, RunState, View, clock, fits_terminal};
pub use metrics::MetricsLog;
pub use mode::ProgressMode;
pub use range::{range_svg, range_words};
pub use records::{EpochRecord, Record, StepRecord, best_epoch};

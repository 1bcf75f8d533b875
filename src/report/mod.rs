//! Reports of a run: the console's table and progress bar, the dashboard, `metrics.jsonl`, `curves.svg`, the confusion matrix,
//! `lr-find.svg`, pages and pictures.

mod axis;
mod batch_picture;
mod confusion;
mod confusion_picture;
mod console;
pub mod cover;
mod curves;
mod curves_page;
mod dashboard;
mod evaluation;
mod evaluation_page;
pub mod explained;
mod filters;
mod metrics;
mod mode;
pub mod page;
pub mod picture;
mod range;
mod records;
mod run_page;
pub mod stream;
mod text;

pub use batch_picture::{batch_picture, batch_words};
pub use confusion::{ClassScores, Confusion};
pub use confusion_picture::confusion_picture;
pub use console::{Progress, ProgressLines, Table, grouped, loss, percent};
pub use curves::curves_svg;
pub use curves_page::{CURVES_SCRIPT, CURVES_STYLE, curves_page};
pub use dashboard::{Dashboard, LEAST_COLUMNS, LEAST_ROWS, RunFacts, RunState, View, clock, fits_terminal};
pub use evaluation::{Evaluation, Mistake, TOP, evaluate_for_report, first_maximum, rank};
pub use filters::{filter_pictures, first_layer_filters};
pub use metrics::MetricsLog;
pub use mode::ProgressMode;
pub use range::{range_svg, range_words};
pub use records::{EpochRecord, Record, StepRecord, best_epoch};
pub use run_page::{ListedSetting, RunPage};

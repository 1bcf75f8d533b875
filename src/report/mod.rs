//! Reports of a run: the console's table and progress bar, `metrics.jsonl`, `curves.svg`, the confusion matrix,
//! `lr-find.svg`, pages and pictures.

mod axis;
mod confusion;
mod console;
mod curves;
pub mod explained;
mod filters;
mod metrics;
pub mod page;
pub mod picture;
mod range;
mod records;
pub mod stream;

pub use confusion::{ClassScores, Confusion};
pub use console::{Progress, Table, grouped, loss, percent};
pub use curves::curves_svg;
pub use filters::{filter_pictures, first_layer_filters};
pub use metrics::MetricsLog;
pub use range::{range_svg, range_words};
pub use records::{EpochRecord, Record, StepRecord, best_epoch};

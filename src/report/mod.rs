//! What a run tells: the console's table and progress bar, `metrics.jsonl`, `curves.svg`, the confusion matrix.

mod axis;
pub mod confusion;
pub mod console;
pub mod curves;
pub mod metrics;
pub mod records;

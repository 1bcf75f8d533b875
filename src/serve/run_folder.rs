//! The folder of a run that may still be training.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use crate::report::{EpochRecord, MetricsLog, Record};

/// The files of a run.
#[derive(Debug)]
pub struct RunFolder {
    pub weights: PathBuf,
    pub metrics: PathBuf,
    pub title: String,
    history: Mutex<History>,
}

/// What `metrics.jsonl` says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    pub epochs: Vec<EpochRecord>,
    /// Why the file cannot be read, or what is wrong with it.
    pub fault: Option<String>,
}

/// When a file was last written, and its length: what changes with its content.
pub type Stamp = Option<(SystemTime, u64)>;

impl RunFolder {
    pub fn new(weights: PathBuf, metrics: PathBuf, title: String) -> Self {
        Self { weights, metrics, title, history: Mutex::default() }
    }

    pub fn history(&self) -> History {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads `metrics.jsonl` again. If it cannot be read, the epochs that are known stay.
    pub fn read_metrics(&self) {
        let history = match MetricsLog::read(&self.metrics) {
            Ok((records, bad_line)) => {
                let epoch = |record| if let Record::Epoch(epoch) = record { Some(epoch) } else { None };
                let fault = bad_line.map(|line| format!("metrics.jsonl is damaged in line {line}"));
                History { epochs: records.into_iter().filter_map(epoch).collect(), fault }
            }
            Err(error) => History { fault: Some(format!("{error:#}")), ..self.history() },
        };
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = history;
    }
}

/// The stamp of a file; `None` if there is none.
pub fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

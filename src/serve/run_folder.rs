//! The folder of a run that may still be training: its curves, and its weights whenever they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tracing::{info, warn};

use super::engine::Job;
use super::site::Site;
use crate::checkpoint::load_weights;
use crate::report::{EpochRecord, MetricsLog, Record};

const INTERVAL: Duration = Duration::from_secs(1);

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
type Stamp = Option<(SystemTime, u64)>;

impl RunFolder {
    pub fn new(weights: PathBuf, metrics: PathBuf, title: String) -> Self {
        Self { weights, metrics, title, history: Mutex::default() }
    }

    pub fn history(&self) -> History {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_metrics(&self) {
        let history = match MetricsLog::read(&self.metrics) {
            Ok((records, bad_line)) => {
                let epoch = |record| if let Record::Epoch(epoch) = record { Some(epoch) } else { None };
                let fault = bad_line.map(|line| format!("metrics.jsonl is damaged in line {line}"));
                History { epochs: records.into_iter().filter_map(epoch).collect(), fault }
            }
            Err(error) => History { fault: Some(format!("{error:#}")), ..History::default() },
        };
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = history;
    }
}

/// Reads the run's files whenever they change, until the network's thread ends. `loaded` is the stamp of the weights that
/// the network has, if it has any.
pub fn watch(site: &Site, run: &RunFolder, mut loaded: Stamp) {
    let mut read = None;
    loop {
        let stamp = stamp(&run.metrics);
        if stamp != read || stamp.is_none() {
            run.read_metrics();
            read = stamp;
        }
        let stamp = self::stamp(&run.weights);
        if stamp.is_some() && stamp != loaded {
            loaded = stamp;
            match load_weights(&run.weights, &site.network) {
                Ok(weights) => {
                    if !site.client.send(Job::Load(Box::new(weights))) {
                        return;
                    }
                    info!("read {} again", run.weights.display());
                    site.weights_loaded();
                }
                Err(error) => {
                    warn!("the page keeps the earlier weights: {error:#}");
                    site.weights_failed(format!("{error:#}"));
                }
            }
        }
        sleep(INTERVAL);
    }
}

/// The stamp of a file; `None` if there is none.
pub fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

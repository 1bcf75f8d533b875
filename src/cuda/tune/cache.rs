//! The tuning cache: times that were measured on this device, stored on disk for later starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cuda::driver::{cache_folder, write_to_cache};
use crate::cuda::lower::tile;
use crate::ops::Candidate;
use crate::rng::fingerprint;

/// Microseconds by site and candidate; null if the candidate failed.
type Times = BTreeMap<String, BTreeMap<String, Option<f64>>>;

/// The contents of the file: a key that identifies device, driver, libraries and kernels, and the times measured with
/// them.
#[derive(Default, Serialize, Deserialize)]
struct File {
    key: String,
    microseconds: Times,
}

/// Measured times and the file that stores them.
#[derive(Default)]
pub(super) struct TuningCache {
    path: Option<PathBuf>,
    file: File,
    is_dirty: bool,
}

impl TuningCache {
    /// Loads the times that were measured with this key; none if the file does not exist or is damaged.
    pub fn load(key: String) -> Self {
        let name = format!("algorithms-{:016x}.json", fingerprint([key.as_bytes()]));
        let path = cache_folder().map(|folder| folder.join(name));
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let file = text.and_then(|text| serde_json::from_str::<File>(&text).ok());
        let is_valid = |file: &File| {
            let mut times = file.microseconds.values().flat_map(|times| times.values().flatten());
            file.key == key && times.all(|time| time.is_finite() && *time >= 0.0)
        };
        let file = file.filter(is_valid).unwrap_or_else(|| File { key, microseconds: Times::new() });
        Self { path, file, is_dirty: false }
    }

    /// Records the time of a candidate; `None` if it failed.
    pub fn record(&mut self, site: &str, candidate: Candidate, microseconds: Option<f64>) {
        self.file.microseconds.entry(site.to_string()).or_default().insert(candidate.to_string(), microseconds);
        self.is_dirty = true;
    }

    /// The recorded time, `Some(None)` if the candidate failed; `None` if it was never tried.
    pub fn get(&self, site: &str, candidate: Candidate) -> Option<Option<f64>> {
        self.file.microseconds.get(site)?.get(&candidate.to_string()).copied()
    }

    /// The times of a site's candidates that did not fail.
    pub fn times(&self, site: &str) -> Vec<(Candidate, f64)> {
        let times = self.file.microseconds.get(site).into_iter().flatten();
        times.filter_map(|(name, &time)| Some((tile::named(name)?, time?))).collect()
    }

    /// Writes the cache to disk if it has changed.
    pub fn save(&mut self) {
        if let (Some(path), true) = (&self.path, self.is_dirty) {
            write_to_cache(path, &serde_json::to_string_pretty(&self.file).unwrap_or_default());
        }
        self.is_dirty = false;
    }
}

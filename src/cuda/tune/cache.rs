//! What was measured on this device, kept on disk for the next start.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cuda::driver::{cache_folder, keep};
use crate::ops::Algorithm;
use crate::rng::fingerprint;

/// Microseconds by operator and algorithm; null where it fails.
type Times = BTreeMap<String, BTreeMap<String, Option<f64>>>;

/// The file: a key that names device, driver and kernels, and what was found with them.
#[derive(Default, Serialize, Deserialize)]
struct File {
    key: String,
    microseconds: Times,
}

/// Measured times, and where they are kept.
#[derive(Default)]
pub(super) struct TuningCache {
    path: Option<PathBuf>,
    file: File,
    is_new: bool,
}

impl TuningCache {
    /// What was found before with this key; nothing where there is no file, or it is damaged.
    pub fn load(key: String) -> Self {
        let name = format!("algorithms-{:016x}.json", fingerprint([key.as_bytes()]));
        let path = cache_folder().map(|folder| folder.join(name));
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let file = text.and_then(|text| serde_json::from_str::<File>(&text).ok());
        let sound = |file: &File| {
            let mut times = file.microseconds.values().flat_map(|times| times.values().flatten());
            file.key == key && times.all(|time| time.is_finite() && *time >= 0.0)
        };
        let file = file.filter(sound).unwrap_or_else(|| File { key, microseconds: Times::new() });
        Self { path, file, is_new: false }
    }

    /// Keeps the time of an algorithm; none says that it fails.
    pub fn learn(&mut self, site: &str, algorithm: Algorithm, microseconds: Option<f64>) {
        self.file.microseconds.entry(site.to_string()).or_default().insert(algorithm.name().to_string(), microseconds);
        self.is_new = true;
    }

    /// What was learnt; nothing where the algorithm was never tried.
    pub fn get(&self, site: &str, algorithm: Algorithm) -> Option<Option<f64>> {
        self.file.microseconds.get(site)?.get(algorithm.name()).copied()
    }

    /// The times of a site's algorithms that work.
    pub fn times(&self, site: &str) -> Vec<(Algorithm, f64)> {
        let times = self.file.microseconds.get(site).into_iter().flatten();
        times.filter_map(|(name, &time)| Some((Algorithm::from_name(name)?, time?))).collect()
    }

    /// Writes what is new to disk.
    pub fn save(&mut self) {
        if let (Some(path), true) = (&self.path, self.is_new) {
            keep(path, &serde_json::to_string_pretty(&self.file).unwrap_or_default());
        }
        self.is_new = false;
    }
}

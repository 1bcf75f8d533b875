//! What was measured on this device, kept on disk for the next start.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::cuda::driver::cache_folder;
use crate::files::write_atomically;
use crate::ops::Algorithm;
use crate::rng::fingerprint;

/// Microseconds by operator and algorithm.
type Times = BTreeMap<String, BTreeMap<String, f64>>;

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
            let mut times = file.microseconds.values().flat_map(|times| times.values());
            file.key == key && times.all(|time| time.is_finite() && *time >= 0.0)
        };
        let file = file.filter(sound).unwrap_or_else(|| File { key, microseconds: Times::new() });
        Self { path, file, is_new: false }
    }

    /// Keeps measured times of a site, beside those that are known.
    pub fn learn(&mut self, site: &str, times: &[(Algorithm, f64)]) {
        let times = times.iter().map(|&(algorithm, time)| (algorithm.name().to_string(), time));
        self.file.microseconds.entry(site.to_string()).or_default().extend(times);
        self.is_new = true;
    }

    /// What is known of a site.
    pub fn times(&self, site: &str) -> Vec<(Algorithm, f64)> {
        let times = self.file.microseconds.get(site).into_iter().flatten();
        times.filter_map(|(name, &time)| Some((Algorithm::named(name)?, time))).collect()
    }

    /// Writes what is new to disk. A cache that cannot be written costs the measurements next time, no more.
    pub fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.is_new) else { return };
        let write = || {
            let text = serde_json::to_string_pretty(&self.file)?;
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            write_atomically(path, |writer| Ok(writer.write_all(text.as_bytes())?))
        };
        if let Err(error) = write() {
            debug!("the choice of algorithms is not kept: {error:#}");
        }
        self.is_new = false;
    }
}

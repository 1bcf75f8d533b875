//! Notices when a run writes its metrics and its weights.

use std::thread::sleep;
use std::time::Duration;

use tracing::{info, warn};

use super::engine::Job;
use super::run_folder::{RunFolder, Stamp, stamp};
use super::site::Site;
use crate::checkpoint::load_weights;

const INTERVAL: Duration = Duration::from_secs(1);

/// Reads the run's files whenever they change, until the network's thread ends. `loaded` is the stamp of the weights that
/// the network has, if it has any.
pub fn watch(site: &Site, run: &RunFolder, mut loaded: Stamp) {
    let mut read = None;
    loop {
        let metrics = stamp(&run.metrics);
        if metrics != read || metrics.is_none() {
            run.read_metrics();
            read = metrics;
        }
        let weights = stamp(&run.weights);
        if weights.is_some() && weights != loaded {
            loaded = weights;
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

//! What the server sends as JSON.

use serde::Serialize;

use super::layers::Layer;
use super::pictures::MAX_FILE;
use super::run_folder::{History, RunFolder};
use super::samples::SamplesState;
use super::site::Site;
use crate::network::NodeId;
use crate::shape::Shape;

/// The answer of `/api/site`: what does not change.
#[derive(Serialize)]
pub struct SiteData<'a> {
    model: &'a str,
    weights: &'a str,
    device: &'a str,
    notes: &'a [String],
    classes: &'a [String],
    input: [usize; 3],
    parameters: usize,
    explained: Option<NodeId>,
    layers: &'a [Layer],
    run: Option<&'a str>,
    /// The largest picture file, in bytes.
    largest_file: usize,
}

impl<'a> SiteData<'a> {
    pub fn new(site: &'a Site) -> Self {
        let Shape { height, width, channels } = site.network.input();
        Self {
            model: &site.network.name,
            weights: &site.about.weights,
            device: &site.about.device,
            notes: &site.about.notes,
            classes: &site.classes,
            input: [height, width, channels],
            parameters: site.network.evaluated_parameter_count(),
            explained: site.described.explained,
            layers: &site.described.layers,
            run: site.run.as_ref().map(|run| run.title.as_str()),
            largest_file: MAX_FILE,
        }
    }
}

/// The answer of `/api/state`: what changes while the page is shown.
#[derive(Serialize)]
pub struct StateData {
    /// How often weights were loaded; 0 before the first time.
    generation: u64,
    error: Option<String>,
    samples: SamplesData,
    history: Option<History>,
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum SamplesData {
    Loading,
    Ready { dataset: String, counts: Vec<usize> },
    Missing { why: String },
}

impl StateData {
    pub fn new(site: &Site) -> Self {
        let status = site.status();
        let history = site.run.as_ref().map(RunFolder::history);
        let samples = match &*site.samples() {
            SamplesState::Loading => SamplesData::Loading,
            SamplesState::Missing(why) => SamplesData::Missing { why: why.clone() },
            SamplesState::Ready(samples) => SamplesData::Ready {
                dataset: samples.dataset.clone(),
                counts: samples.images.iter().map(Vec::len).collect(),
            },
        };
        Self { generation: status.generation, error: status.error, samples, history }
    }
}

/// The answer to a picture: what the network says about it, and what it was.
#[derive(Serialize)]
pub struct PictureData<'a> {
    /// Names the picture in later requests.
    pub picture: &'a str,
    pub generation: u64,
    pub logits: &'a [f32],
    pub probabilities: &'a [f64],
    /// Whether dark strokes on a light ground were inverted.
    pub inverted: bool,
    /// Whether nothing stands out from the background.
    pub blank: bool,
    /// The network's input as bytes in base64, `[height][width][channels]`, before normalisation.
    pub pixels: String,
}

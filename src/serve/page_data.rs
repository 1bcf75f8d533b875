//! What the server sends as JSON.

use serde::Serialize;

use super::names::names;
use super::run_folder::{History, RunFolder};
use super::samples::SamplesState;
use super::site::Site;
use crate::explain::{explained_layer, shown_layers};
use crate::network::{Network, NodeId};
use crate::shape::Shape;

/// A layer whose activations are shown.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    pub node: NodeId,
    pub name: String,
    /// The operators that are shown as one, such as a convolution and its activation.
    pub text: String,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Of the first unit: its first row and column in the input, the step from one unit to the next, and the size; `None`
    /// if every unit sees the whole input.
    pub field: Option<(isize, usize, usize)>,
}

/// What is known of a network before it runs.
#[derive(Clone, Debug)]
pub struct Described {
    pub layers: Vec<Layer>,
    /// The layer of Grad-CAM; `None` without a convolution.
    pub explained: Option<NodeId>,
}

impl Described {
    pub fn new(network: &Network) -> Self {
        let fields = network.receptive_fields();
        let layer = |node: NodeId| {
            let Shape { height, width, channels } = network.nodes[node].shape;
            let (name, text) = names(network, node);
            let field = fields[node].map(|field| (field.start, field.step, field.size));
            Layer { node, name, text, height, width, channels, field }
        };
        let shown = shown_layers(network).into_iter().filter(|&node| node > 0);
        Self { layers: shown.map(layer).collect(), explained: explained_layer(network).ok() }
    }
}

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

//! The layers that the page shows, and their names.

use serde::Serialize;

use crate::explain::{explained_layer, layer_title, shown_layers};
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
            let (name, text) = layer_title(network, node);
            let field = fields[node].map(|field| (field.start, field.step, field.size));
            Layer { node, name, text, height, width, channels, field }
        };
        let shown = shown_layers(network).into_iter().filter(|&node| node > 0);
        Self { layers: shown.map(layer).collect(), explained: explained_layer(network).ok() }
    }
}

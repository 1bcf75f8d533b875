//! Which activations, sums and poolings are done by the operator before them, and which nodes are but views.

use super::Mode;
use crate::network::{Network, NodeId, Operator};
use crate::ops::{Activation, MaxPool2d};

/// What fusion decided.
pub(super) struct Fusion {
    /// For every node the one whose buffer holds its values: itself, unless it was fused or is a view.
    pub root: Vec<NodeId>,
    /// The activation that ends a convolution, linear layer or batch normalisation.
    pub epilogue: Vec<Activation>,
    /// The max pooling that ends a convolution.
    pub pool: Vec<Option<(NodeId, MaxPool2d)>>,
    /// What a batch normalisation adds to its values before its activation.
    pub residual: Vec<Option<NodeId>>,
    /// Nodes that have no forward step of their own.
    pub absorbed: Vec<bool>,
    /// Operators that read a root's values.
    readers: Vec<usize>,
}

impl Fusion {
    /// Whether one operator alone reads the values of a node, so that it alone writes their gradient.
    pub fn has_one_reader(&self, id: NodeId) -> bool {
        self.readers[self.root[id]] == 1
    }
}

/// Fuses an activation into the convolution, linear layer or batch normalisation before it, a sum into the later of its
/// terms where that is a batch normalisation, and a max pooling into the convolution before it, where nothing else reads
/// the value between.
pub(super) fn fuse(network: &Network, mode: Mode, live: &[bool]) -> Fusion {
    let consumers = network.consumer_counts_among(live);
    let count = network.nodes.len();
    let mut fusion = Fusion {
        root: (0..count).collect(),
        epilogue: vec![Activation::Identity; count],
        pool: vec![None; count],
        residual: vec![None; count],
        absorbed: vec![false; count],
        readers: vec![0; count],
    };
    for (id, node) in network.nodes.iter().enumerate() {
        match node.operator {
            Operator::Dropout(op) if mode == Mode::Training && op.probability > 0.0 => {}
            Operator::Flatten | Operator::Dropout(_) => {
                fusion.root[id] = fusion.root[node.inputs[0]];
                fusion.absorbed[id] = true;
            }
            Operator::Activation(activation) => {
                let input = node.inputs[0];
                let has_epilogue = match network.nodes[input].operator {
                    Operator::Conv2d(_) | Operator::Linear(_) | Operator::BatchNorm2d(_) => true,
                    Operator::Add => fusion.absorbed[input],
                    _ => false,
                };
                if has_epilogue && consumers[input] == 1 {
                    let producer = fusion.root[input];
                    fusion.epilogue[producer] = activation;
                    fusion.root[id] = producer;
                    fusion.absorbed[id] = true;
                }
            }
            Operator::Add => {
                // The other term is there when the later one is computed.
                let (last, other) = (node.inputs[0].max(node.inputs[1]), node.inputs[0].min(node.inputs[1]));
                if matches!(network.nodes[last].operator, Operator::BatchNorm2d(_)) && consumers[last] == 1 {
                    fusion.residual[last] = Some(other);
                    fusion.root[id] = last;
                    fusion.absorbed[id] = true;
                    fusion.readers[fusion.root[other]] += 1;
                }
            }
            _ => {}
        }
        if !fusion.absorbed[id] && live[id] {
            node.inputs.iter().for_each(|&input| fusion.readers[fusion.root[input]] += 1);
        }
    }
    for (id, node) in network.nodes.iter().enumerate().filter(|&(id, _)| live[id]) {
        let Operator::MaxPool2d(op) = node.operator else { continue };
        let producer = fusion.root[node.inputs[0]];
        if matches!(network.nodes[producer].operator, Operator::Conv2d(_)) && fusion.has_one_reader(producer) {
            fusion.pool[producer] = Some((id, op));
            fusion.absorbed[id] = true;
        }
    }
    fusion
}

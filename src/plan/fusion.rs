//! Which activations and poolings are done by the operator before them, and which nodes are but views.

use crate::network::{Network, NodeId, Operator};
use crate::ops::{Activation, MaxPool2d};

/// What fusion decided.
pub(super) struct Fusion {
    /// For every node the one whose buffer holds its values: itself, unless it was fused or is a view.
    pub root: Vec<NodeId>,
    /// The activation that ends a convolution or linear layer.
    pub epilogue: Vec<Activation>,
    /// The max pooling that ends a convolution.
    pub pool: Vec<Option<(NodeId, MaxPool2d)>>,
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

/// Fuses an activation into the convolution or linear layer before it, and a max pooling into the convolution before it,
/// where nothing else reads the value between.
pub(super) fn fuse(network: &Network) -> Fusion {
    let consumers = network.consumer_counts();
    let count = network.nodes.len();
    let mut fusion = Fusion {
        root: (0..count).collect(),
        epilogue: vec![Activation::Identity; count],
        pool: vec![None; count],
        absorbed: vec![false; count],
        readers: vec![0; count],
    };
    for (id, node) in network.nodes.iter().enumerate() {
        match node.operator {
            Operator::Flatten => {
                fusion.root[id] = fusion.root[node.inputs[0]];
                fusion.absorbed[id] = true;
            }
            Operator::Activation(activation) => {
                let producer = node.inputs[0];
                let has_epilogue =
                    matches!(network.nodes[producer].operator, Operator::Conv2d(_) | Operator::Linear(_));
                if has_epilogue && consumers[producer] == 1 {
                    fusion.epilogue[producer] = activation;
                    fusion.root[id] = producer;
                    fusion.absorbed[id] = true;
                }
            }
            _ => {}
        }
        if !fusion.absorbed[id] {
            node.inputs.iter().for_each(|&input| fusion.readers[fusion.root[input]] += 1);
        }
    }
    for (id, node) in network.nodes.iter().enumerate() {
        let Operator::MaxPool2d(op) = node.operator else { continue };
        let producer = fusion.root[node.inputs[0]];
        if matches!(network.nodes[producer].operator, Operator::Conv2d(_)) && fusion.has_one_reader(producer) {
            fusion.pool[producer] = Some((id, op));
            fusion.absorbed[id] = true;
        }
    }
    fusion
}

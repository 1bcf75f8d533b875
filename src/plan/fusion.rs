//! Which activations are done by the operator before them, and which nodes are but views.

use crate::network::{Network, NodeId, Operator};
use crate::ops::Activation;

/// What fusion decided.
pub(super) struct Fusion {
    /// For every node the one whose buffer holds its values: itself, unless it was fused or is a view.
    pub root: Vec<NodeId>,
    /// The activation that ends a convolution or linear layer.
    pub epilogue: Vec<Activation>,
    /// Nodes that have no step of their own.
    pub absorbed: Vec<bool>,
}

/// Fuses an activation into the convolution or linear layer before it where nothing else reads the value between.
pub(super) fn fuse(network: &Network) -> Fusion {
    let consumers = network.consumer_counts();
    let count = network.nodes.len();
    let mut fusion = Fusion {
        root: (0..count).collect(),
        epilogue: vec![Activation::Identity; count],
        absorbed: vec![false; count],
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
    }
    fusion
}

//! Decides which activations, sums, poolings and statistics are fused into the preceding operator, and which nodes are
//! views.

use super::Mode;
use crate::network::{Network, NodeId, Operator};
use crate::ops::{Activation, MaxPool2d};

/// The result of fusion, indexed by node.
pub(super) struct Fusion {
    /// The node whose buffer holds this node's values: itself, unless it was fused or is a view.
    pub root: Vec<NodeId>,
    /// The activation fused into a convolution, linear layer or batch normalisation.
    pub epilogue: Vec<Activation>,
    /// The max pooling fused into a convolution.
    pub pool: Vec<Option<(NodeId, MaxPool2d)>>,
    /// The batch normalisation whose statistics a convolution computes in training.
    pub statistics: Vec<Option<NodeId>>,
    /// The residual that a batch normalisation, or in inference a convolution, adds before its activation.
    pub residual: Vec<Option<NodeId>>,
    /// Whether the node has no forward step of its own.
    pub absorbed: Vec<bool>,
    /// The number of operators that read a root's values.
    readers: Vec<usize>,
}

impl Fusion {
    /// Whether exactly one operator reads the values of a node, so that only this operator writes their gradient.
    pub fn has_one_reader(&self, id: NodeId) -> bool {
        self.readers[self.root[id]] == 1
    }

    /// The number of operators that read each root's values, of which each contributes to their gradient.
    pub fn readers(&self) -> &[usize] {
        &self.readers
    }

    /// Fuses max poolings and, in training, the statistics of batch normalisations into the convolutions before them.
    fn fuse_into_convolutions(&mut self, network: &Network, mode: Mode, live: &[bool]) {
        for (id, node) in network.nodes.iter().enumerate().filter(|&(id, node)| live[id] && !node.inputs.is_empty()) {
            let producer = self.root[node.inputs[0]];
            if !matches!(network.nodes[producer].operator, Operator::Conv2d(_)) {
                continue;
            }
            match node.operator {
                Operator::MaxPool2d(op) if self.has_one_reader(producer) && self.residual[producer].is_none() => {
                    self.pool[producer] = Some((id, op));
                    self.absorbed[id] = true;
                }
                Operator::BatchNorm2d(_) if mode == Mode::Training && !network.is_frozen_norm(node) => {
                    self.statistics[producer].get_or_insert(id);
                }
                _ => {}
            }
        }
    }
}

/// Fuses an activation into the preceding convolution, linear layer or batch normalisation, a sum into the later of its
/// terms if that is a batch normalisation or, in inference, a convolution, and a max pooling into the preceding
/// convolution, each only if nothing else reads the value in between. The statistics of a batch normalisation are fused
/// into the convolution before it. In an attribution, nothing is fused.
pub(super) fn fuse(network: &Network, mode: Mode, live: &[bool]) -> Fusion {
    let fuses = !matches!(mode, Mode::Attribution(_));
    let consumers = network.consumer_counts_among(live);
    let count = network.nodes.len();
    let mut fusion = Fusion {
        root: (0..count).collect(),
        epilogue: vec![Activation::Identity; count],
        pool: vec![None; count],
        statistics: vec![None; count],
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
            Operator::Activation(activation) if fuses => {
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
            Operator::Add if fuses => {
                // The earlier term has been computed by the time of the later one.
                let (last, other) = (node.inputs[0].max(node.inputs[1]), node.inputs[0].min(node.inputs[1]));
                let adds = match network.nodes[last].operator {
                    Operator::BatchNorm2d(_) => true,
                    Operator::Conv2d(_) => mode == Mode::Inference,
                    _ => false,
                };
                if adds && consumers[last] == 1 {
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
    if fuses {
        fusion.fuse_into_convolutions(network, mode, live);
    }
    fusion
}

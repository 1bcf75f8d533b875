//! The network as a DAG of operators with named parameters: what is computed, independent of how and where.

mod builder;
mod cells;
mod first_layer;
mod fold;
mod freeze;
mod gabor;
mod groups;
mod inspect;
mod parameters;
mod pooling;
mod statistics;
mod wavelet;
mod whitening;

pub use builder::{Builder, Conv2dOptions, ConvInitial, NormOptions};
pub use cells::{CellLayer, CellOptions};
pub use first_layer::FirstLayer;
pub use freeze::BACKBONE;
pub use groups::{GroupRules, MuonGroups};
pub use inspect::ReceptiveField;
pub use parameters::{Initial, Layout, Parameter};
pub use statistics::{RunningStatistics, Statistics, Weights};

use anyhow::Result;

use crate::ops::{Activation, AnyLayer, BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d};
use crate::shape::Shape;

/// Index of a node. A node's inputs always have smaller indices, so the nodes are in topological order.
pub type NodeId = usize;

/// What a node computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    Input,
    Conv2d(Conv2d),
    Linear(Linear),
    BatchNorm2d(BatchNorm2d),
    MaxPool2d(MaxPool2d),
    Activation(Activation),
    /// A parameter-free layer with one input and no special treatment.
    Layer(AnyLayer),
    /// A view of its input in evaluation.
    Dropout(Dropout),
    /// A view of its input as a vector.
    Flatten,
    Add,
    /// Concatenation along channels.
    Concat,
}

/// One operator in the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// PyTorch's module path if the operator has parameters, such as `layer1.0`; otherwise its kind and a number.
    pub name: String,
    pub operator: Operator,
    pub inputs: Vec<NodeId>,
    pub shape: Shape,
    /// Indices into [`Network::parameters`].
    pub weight: Option<usize>,
    pub bias: Option<usize>,
    /// Index into [`Network::statistics`].
    pub statistics: Option<usize>,
}

/// A network for one input shape, from its input (node 0) to its logits (the last node).
#[derive(Clone, Debug)]
pub struct Network {
    pub name: String,
    pub nodes: Vec<Node>,
    pub parameters: Vec<Parameter>,
    /// Initial filters of the first convolution.
    pub first_layer: FirstLayer,
    /// How the optimiser treats parameters differently; set by [`Network::with_groups`], which orders the parameters.
    pub group_rules: GroupRules,
    /// Which parameters [`Network::with_frozen`] keeps fixed; empty if none.
    frozen: Vec<bool>,
    /// The layers of S-cells, from the first to the last; empty in a network that learns by gradient descent.
    pub cells: Vec<CellLayer>,
    /// Running statistics of the batch normalisations: not parameters, but part of the network's state.
    pub statistics: Vec<RunningStatistics>,
    /// Logits of the auxiliary heads, which exist only in training, and the weights of their losses.
    pub auxiliary: Vec<(NodeId, f32)>,
}

/// Which parameters, and which batch normalisations' running statistics, belong to auxiliary heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuxiliaryState {
    pub parameters: Vec<bool>,
    pub statistics: Vec<bool>,
}

impl Network {
    pub fn input(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Number of classes: the length of the logits.
    pub fn classes(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.shape.len())
    }

    /// Total number of parameter values: the length of the flat parameter buffer.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Parameter::len).sum()
    }

    /// Initial values of every parameter, in memory layout. Each parameter has its own random stream, which is drawn in
    /// PyTorch's element order.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.parameter_count()];
        for (index, parameter) in self.parameters.iter().enumerate() {
            let values = parameter.initial_values(seed, index as u32);
            parameter.layout.memory_from_file(&values, &mut flat[parameter.range()]);
        }
        self.fill_first_layer(&mut flat);
        self.fill_cells(&mut flat);
        flat
    }

    /// The same network with every activation replaced by `activation`.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        for node in &mut self.nodes {
            if let Operator::Activation(current) = &mut node.operator {
                *current = activation;
            }
        }
        self
    }

    /// The same network with the probability of every dropout replaced; 0 disables dropout.
    pub fn with_dropout(mut self, probability: f32) -> Self {
        for node in &mut self.nodes {
            if let Operator::Dropout(dropout) = &mut node.operator {
                dropout.probability = probability;
            }
        }
        self
    }

    /// The same network up to a node, whose values are then its output. Parameters of later layers remain.
    pub fn up_to(mut self, node: NodeId) -> Self {
        self.nodes.truncate(node + 1);
        self.auxiliary.clear();
        self
    }

    /// The number of operators that read each node.
    pub fn consumer_counts(&self) -> Vec<usize> {
        self.consumer_counts_among(&vec![true; self.nodes.len()])
    }

    /// The number of operators among `selected` that read each node.
    pub fn consumer_counts_among(&self, selected: &[bool]) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        for (node, _) in self.nodes.iter().zip(selected).filter(|&(_, &selected)| selected) {
            node.inputs.iter().for_each(|&input| counts[input] += 1);
        }
        counts
    }

    /// Which nodes the logits depend on. Evaluation computes only these; the others belong to auxiliary heads.
    pub fn evaluated_nodes(&self) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        if let Some(last) = needed.last_mut() {
            *last = true;
        }
        for id in (0..self.nodes.len()).rev().filter(|&id| id > 0) {
            if needed[id] {
                self.nodes[id].inputs.iter().for_each(|&input| needed[input] = true);
            }
        }
        needed
    }

    /// The state that only auxiliary heads use.
    pub fn auxiliary_state(&self) -> AuxiliaryState {
        let (mut parameters, mut statistics) = (vec![false; self.parameters.len()], vec![false; self.statistics.len()]);
        for (node, _) in self.nodes.iter().zip(self.evaluated_nodes()).filter(|(_, needed)| !needed) {
            node.weight.iter().chain(&node.bias).for_each(|&index| parameters[index] = true);
            node.statistics.iter().for_each(|&index| statistics[index] = true);
        }
        AuxiliaryState { parameters, statistics }
    }

    /// The number of parameters, without those of auxiliary heads.
    pub fn evaluated_parameter_count(&self) -> usize {
        let nodes = self.nodes.iter().zip(self.evaluated_nodes());
        nodes.filter(|(_, needed)| *needed).map(|(node, _)| self.node_parameters(node)).sum()
    }

    /// Multiply-adds of convolutions and linear layers in the evaluation of one sample.
    pub fn multiply_adds(&self) -> Result<u64> {
        let nodes = self.nodes.iter().zip(self.evaluated_nodes());
        nodes.filter(|(_, needed)| *needed).map(|(node, _)| node.multiply_adds()).sum()
    }
}

impl Node {
    /// Multiply-adds for one sample. As usual, only convolutions and linear layers count.
    pub fn multiply_adds(&self) -> Result<u64> {
        Ok(match &self.operator {
            Operator::Conv2d(conv) => conv.output()?.pixels() as u64 * conv.weight_len() as u64,
            Operator::Linear(linear) => linear.weight_len() as u64,
            _ => 0,
        })
    }
}

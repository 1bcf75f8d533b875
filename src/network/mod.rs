//! The network as a DAG of operators with named parameters: what is computed, and nothing of how or where.

mod builder;
mod gabor;
mod inspect;
mod parameters;
mod pooling;
mod statistics;

pub use builder::{Builder, Conv2dOptions, ConvInitial};
pub use gabor::FirstLayer;
pub use inspect::ReceptiveField;
pub use parameters::{Initial, Layout, Parameter};
pub use statistics::{RunningStatistics, Statistics, Weights};

use anyhow::Result;

use crate::ops::{Activation, AnyLayer, BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d};
use crate::shape::Shape;

/// Index of a node; inputs always have smaller ones, so the order of the nodes is a schedule.
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
    /// What has one input, no parameters and nothing special about it.
    Layer(AnyLayer),
    /// In evaluation a view.
    Dropout(Dropout),
    /// A view: the same values as a vector.
    Flatten,
    Add,
    /// Along channels.
    Concat,
}

/// One operator in the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// PyTorch's module path where the operator has parameters, such as `layer1.0`; else made from its kind.
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

/// A network over one input shape, from its input (node 0) to its logits (the last node).
#[derive(Clone, Debug)]
pub struct Network {
    pub name: String,
    pub nodes: Vec<Node>,
    pub parameters: Vec<Parameter>,
    /// How the first convolution's filters begin.
    pub first_layer: FirstLayer,
    /// Of the batch normalisations: no parameters, but part of the network's state.
    pub statistics: Vec<RunningStatistics>,
    /// Logits of heads that only help training, and the weights of their losses.
    pub auxiliary: Vec<(NodeId, f32)>,
}

/// Whether each parameter, and the running statistics of each batch normalisation, is of an auxiliary head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfHeads {
    pub parameters: Vec<bool>,
    pub statistics: Vec<bool>,
}

impl Network {
    pub fn input(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Length of the logits.
    pub fn classes(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.shape.len())
    }

    /// Numbers in all parameters together: the length of the flat parameter buffer.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Parameter::len).sum()
    }

    /// Initial values of every parameter, in memory layout. Each has a random stream of its own, drawn in PyTorch's order
    /// of elements.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.parameter_count()];
        for (index, parameter) in self.parameters.iter().enumerate() {
            let values = parameter.initial_values(seed, index as u32);
            parameter.layout.memory_from_file(&values, &mut flat[parameter.range()]);
        }
        self.fill_first_layer(&mut flat);
        flat
    }

    /// The same network with another activation wherever it has one.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        for node in &mut self.nodes {
            if let Operator::Activation(its) = &mut node.operator {
                *its = activation;
            }
        }
        self
    }

    /// The same with another probability in every dropout; 0 turns them off.
    pub fn with_dropout(mut self, probability: f32) -> Self {
        for node in &mut self.nodes {
            if let Operator::Dropout(dropout) = &mut node.operator {
                dropout.probability = probability;
            }
        }
        self
    }

    /// How many operators read each node.
    pub fn consumer_counts(&self) -> Vec<usize> {
        self.consumer_counts_among(&vec![true; self.nodes.len()])
    }

    /// How many of some operators read each node.
    pub fn consumer_counts_among(&self, some: &[bool]) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        for (node, _) in self.nodes.iter().zip(some).filter(|&(_, &counts)| counts) {
            node.inputs.iter().for_each(|&input| counts[input] += 1);
        }
        counts
    }

    /// Which nodes the logits depend on: all that evaluation computes. The others are in auxiliary heads.
    pub fn evaluated(&self) -> Vec<bool> {
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

    /// What auxiliary heads alone have.
    pub fn of_heads(&self) -> OfHeads {
        let (mut parameters, mut statistics) = (vec![false; self.parameters.len()], vec![false; self.statistics.len()]);
        for (node, _) in self.nodes.iter().zip(self.evaluated()).filter(|(_, needed)| !needed) {
            node.weight.iter().chain(&node.bias).for_each(|&index| parameters[index] = true);
            node.statistics.iter().for_each(|&index| statistics[index] = true);
        }
        OfHeads { parameters, statistics }
    }

    /// Parameters without those of auxiliary heads.
    pub fn evaluated_parameter_count(&self) -> usize {
        let nodes = self.nodes.iter().zip(self.evaluated());
        nodes.filter(|(_, needed)| *needed).map(|(node, _)| self.node_parameters(node)).sum()
    }

    /// Multiply-adds of a forward pass of one sample in evaluation, in convolutions and linear layers.
    pub fn multiply_adds(&self) -> Result<u64> {
        let nodes = self.nodes.iter().zip(self.evaluated());
        nodes.filter(|(_, needed)| *needed).map(|(node, _)| node.multiply_adds()).sum()
    }
}

impl Node {
    /// Multiply-adds of one sample; only products count, as is usual.
    pub fn multiply_adds(&self) -> Result<u64> {
        Ok(match &self.operator {
            Operator::Conv2d(conv) => conv.output()?.pixels() as u64 * conv.weight_len() as u64,
            Operator::Linear(linear) => linear.weight_len() as u64,
            _ => 0,
        })
    }
}

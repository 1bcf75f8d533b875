//! The network as a DAG of operators with named parameters: what is computed, and nothing of how or where.

mod builder;
mod gabor;
mod inspect;
mod parameters;
mod statistics;

pub use builder::{Builder, Conv2dOptions, ConvInitial};
pub use gabor::FirstLayer;
pub use inspect::ReceptiveField;
pub use parameters::{Initial, Layout, Parameter};
pub use statistics::{RunningStatistics, Statistics, Weights};

use anyhow::Result;

use crate::ops::{Activation, AvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, Subsample};
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
    AvgPool2d(AvgPool2d),
    Activation(Activation),
    /// A view: the same values as a vector.
    Flatten,
    Add,
    /// Along channels.
    Concat,
    Subsample(Subsample),
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

    /// How many operators read each node.
    pub fn consumer_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        for &input in self.nodes.iter().flat_map(|node| &node.inputs) {
            counts[input] += 1;
        }
        counts
    }

    /// Multiply-adds of a forward pass of one sample, in convolutions and linear layers.
    pub fn multiply_adds(&self) -> Result<u64> {
        self.nodes.iter().map(Node::multiply_adds).sum()
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

//! The cells of a neocognitron (Fukushima, "Neocognitron: A Self-organizing Neural Network Model for a Mechanism of Pattern
//! Recognition Unaffected by Shift in Position", Biological Cybernetics 36, 1980) as ordinary nodes of a network.
//!
//! An S-cell compares a patch `x` of the layer before with its preferred feature `x̂`, a vector of length 1, and responds
//! if they are similar enough: `max(0, x̂·x − θ|x|)`, which is `|x| · max(0, cos(x̂, x) − θ)`. This is the form with
//! subtractive inhibition (Fukushima, "Training multi-layered neural network neocognitron", Neural Networks 40, 2013). The
//! norm `|x|` is the response of a V-cell, `√(Σ c x²)` with fixed weights `c = 1`. It is a further input channel of the
//! S-cells, with the weight `−θ` at the centre of the patch, so that a layer of S-cells is a convolution and a ReLU.

use std::f64::consts::PI;
use std::ops::Range;

use anyhow::{Context, Result};

use super::{Builder, Conv2dOptions, Initial, Network, Node, NodeId, Operator};
use crate::ops::{AnyLayer, Function, Pointwise};
use crate::shape::Shape;

/// A layer of S-cells.
#[derive(Clone, Debug)]
pub struct CellLayer {
    pub name: String,
    /// The layer whose patches the cells see, the V-cells, and the S-cells after their ReLU.
    pub input: NodeId,
    pub inhibition: NodeId,
    pub output: NodeId,
    /// Index of the weight in [`Network::parameters`].
    weight: usize,
    /// The side of a patch; 0 if it is the whole input.
    pub kernel: usize,
    /// `θ`: the smallest cosine of a response.
    pub threshold: f32,
    /// Whether the features are not learned: each is one of the input's channels.
    pub innate: bool,
}

/// The options of a layer of S-cells.
#[derive(Clone, Copy, Debug)]
pub struct CellOptions {
    /// The number of features, each of which has a cell at every position.
    pub features: usize,
    /// Odd; 0 for cells that see the whole input.
    pub kernel: usize,
    pub threshold: f32,
    /// See [`CellLayer::innate`].
    pub innate: bool,
}

impl Builder {
    /// A layer of S-cells without preferred features, which stay silent, with its V-cells.
    pub fn s_cells(&mut self, name: &str, input: NodeId, options: CellOptions) -> Result<NodeId> {
        let CellOptions { features, kernel, threshold, innate } = options;
        let square = self.pointwise(input, Function::Square)?;
        let window = Conv2dOptions { kernel, padding: kernel / 2, bias: false, ..Default::default() };
        let [v, s] = ["v", "s"].map(|kind| format!("{name}.{kind}"));
        let (inhibition, cells);
        if kernel > 0 {
            let sum = self.conv2d(&v, square, Conv2dOptions { out_channels: 1, ..window })?;
            inhibition = self.pointwise(sum, Function::SquareRoot)?;
            let joined = self.concat(&[input, inhibition])?;
            cells = self.conv2d(&s, joined, Conv2dOptions { out_channels: features, ..window })?;
            self.set_initial(sum, Initial::Constant(1.0), Initial::Constant(0.0));
        } else {
            let (flat, square) = (self.flatten(input), self.flatten(square));
            let sum = self.linear_with(&v, square, 1, false)?;
            inhibition = self.pointwise(sum, Function::SquareRoot)?;
            let joined = self.concat(&[flat, inhibition])?;
            cells = self.linear_with(&s, joined, features, false)?;
            self.set_initial(sum, Initial::Constant(1.0), Initial::Constant(0.0));
        }
        self.set_initial(cells, Initial::Constant(0.0), Initial::Constant(0.0));
        let output = self.relu(cells)?;
        let weight = self.network.nodes[cells].weight.context("its weight")?;
        let name = name.into();
        self.network.cells.push(CellLayer { name, input, inhibition, output, weight, kernel, threshold, innate });
        Ok(output)
    }

    /// Marks all parameters as fixed: gradient descent does not change them.
    pub fn fix_parameters(&mut self) {
        self.network.parameters.iter_mut().for_each(|parameter| parameter.fixed = true);
    }

    fn pointwise(&mut self, input: NodeId, function: Function) -> Result<NodeId> {
        self.layer(input, AnyLayer::Pointwise(Pointwise { input: self.shape(input), function }))
    }
}

impl Network {
    /// Whether the network learns by the rule of its cells instead of gradient descent.
    pub fn has_cells(&self) -> bool {
        !self.cells.is_empty()
    }

    /// The number of features that a layer of S-cells can have.
    pub fn feature_count(&self, layer: &CellLayer) -> usize {
        self.parameters[layer.weight].layout.file_shape()[0]
    }

    /// Where the weights of the cells number `index` of a layer are.
    pub fn feature_range(&self, layer: &CellLayer, index: usize) -> Range<usize> {
        let range = self.parameters[layer.weight].range();
        let len = range.len() / self.feature_count(layer);
        range.start + index * len..range.start + (index + 1) * len
    }

    /// Gives the cells number `index` of a layer the preferred feature `patch`, `[kernel][kernel][channels]`, at length 1.
    pub fn set_feature(&self, parameters: &mut [f32], layer: &CellLayer, index: usize, patch: &[f32]) {
        let norm = patch.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        // The whole input is a single tap.
        let taps = layer.kernel.pow(2).max(1);
        let channels = patch.len() / taps;
        let cell = &mut parameters[self.feature_range(layer, index)];
        for (tap, (cell, patch)) in cell.chunks_exact_mut(channels + 1).zip(patch.chunks_exact(channels)).enumerate() {
            cell[channels] = if tap == taps / 2 { -layer.threshold } else { 0.0 };
            cell.iter_mut().zip(patch).for_each(|(to, &from)| *to = (f64::from(from) / norm) as f32);
        }
    }

    /// Gives the cells of innate layers their features.
    pub(super) fn fill_cells(&self, parameters: &mut [f32]) {
        for layer in self.cells.iter().filter(|layer| layer.innate) {
            let channels = self.nodes[layer.input].shape.channels;
            for index in 0..self.feature_count(layer).min(channels) {
                let feature: Vec<f32> = (0..channels).map(|channel| f32::from(u8::from(channel == index))).collect();
                self.set_feature(parameters, layer, index, &feature);
            }
        }
    }

    /// Where the weights of the layer that computes the logits are, `[classes][inputs]`.
    pub fn head_weights(&self) -> Option<Range<usize>> {
        Some(self.parameters[self.nodes.last()?.weight?].range())
    }

    /// The same network up to some of its nodes, whose outputs, one after the other, take the place of the logits.
    pub fn with_outputs(&self, outputs: &[NodeId]) -> Self {
        let mut network = self.clone();
        network.nodes.truncate(outputs.iter().max().map_or(0, |last| last + 1));
        let node = |name: String, operator, inputs, shape| Node {
            name,
            operator,
            inputs,
            shape,
            weight: None,
            bias: None,
            statistics: None,
        };
        let mut flat = Vec::new();
        for &output in outputs {
            let shape = Shape::flat(self.nodes[output].shape.len());
            flat.push(network.nodes.len());
            network.nodes.push(node(format!("output.{}", flat.len()), Operator::Flatten, vec![output], shape));
        }
        let shape = Shape::flat(outputs.iter().map(|&output| self.nodes[output].shape.len()).sum());
        network.nodes.push(node("outputs".into(), Operator::Concat, flat, shape));
        network
    }
}

/// `count` filters `[kernel][kernel]` that respond to edges in as many directions: the derivative of a Gaussian in the
/// direction across the edge, which is longer along it. Their length is 1.
pub fn edge_filters(count: usize, kernel: usize) -> Vec<Vec<f32>> {
    const ACROSS: f64 = 1.0;
    const ALONG: f64 = 1.6;
    let centre = (kernel - 1) as f64 / 2.0;
    let filter = |index: usize| {
        let (sin, cos) = (2.0 * PI * index as f64 / count as f64).sin_cos();
        let value = |at: usize| {
            let (x, y) = ((at % kernel) as f64 - centre, (at / kernel) as f64 - centre);
            let (u, v) = (x * cos + y * sin, y * cos - x * sin);
            u * (-u * u / (2.0 * ACROSS * ACROSS) - v * v / (2.0 * ALONG * ALONG)).exp()
        };
        let values: Vec<f64> = (0..kernel * kernel).map(value).collect();
        let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        values.into_iter().map(|value| (value / norm) as f32).collect()
    };
    (0..count).map(filter).collect()
}

//! Fukushima's neocognitron with the three stages of 1980: edges, features of the digits, and whole digits. Its S-cells learn
//! by their own rule (`train/cells.rs`), without gradients.

use anyhow::Result;

use super::Model;
use crate::network::{Builder, CellOptions, Conv2dOptions, ConvInitial, Initial, Network, NodeId};
use crate::ops::{AnyLayer, AvgPool2d};
use crate::shape::{Shape, Window};

pub const MODEL: Model = Model {
    name: "neocognitron",
    about: "Fukushima's neocognitron of 1980 with later improvements, which learns without gradients; for digits",
    input: Shape::new(28, 28, 1),
    classes: 10,
    build: |input, classes| build(input, classes, [64, 3000]),
};

/// The directions of edges that the first stage responds to.
const DIRECTIONS: usize = 16;

/// The network with room for the given numbers of features in its second and third stage.
pub fn build(input: Shape, classes: usize, [features, patterns]: [usize; 2]) -> Result<Network> {
    let mut net = Builder::new("neocognitron", input);
    let edges = Conv2dOptions { out_channels: DIRECTIONS, kernel: 7, ..Default::default() };
    let mut x = net.conv2d("edges", 0, Conv2dOptions { bias: false, initial: ConvInitial::Edges, ..edges })?;
    x = net.relu(x)?;
    x = net.s_cells("s1", x, CellOptions { features: DIRECTIONS, kernel: 1, threshold: 0.35, innate: true })?;
    x = c_cells(&mut net, x, Window { kernel: 3, stride: 1, padding: 1 })?;
    x = net.s_cells("s2", x, CellOptions { features, kernel: 5, threshold: 0.4, innate: false })?;
    x = c_cells(&mut net, x, Window { kernel: 7, stride: 3, padding: 3 })?;
    x = net.s_cells("s3", x, CellOptions { features: patterns, kernel: 0, threshold: 0.7, innate: false })?;
    // The C-cells of the last stage add up the S-cells of each class.
    let head = net.linear_with("c3", x, classes, false)?;
    net.set_initial(head, Initial::Constant(0.0), Initial::Constant(0.0));
    net.fix_parameters();
    net.finish()
}

/// C-cells: each responds to a feature anywhere in its window.
fn c_cells(net: &mut Builder, input: NodeId, window: Window) -> Result<NodeId> {
    net.layer(input, AnyLayer::AvgPool2d(AvgPool2d { input: net.shape(input), window, ceil_mode: false }))
}

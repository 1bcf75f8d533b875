//! How a CUDA device is used: what is decided before it is opened.

use std::collections::BTreeMap;

use crate::ops::{Algorithm, Branches, GraphSteps};

/// How a CUDA device is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of the device, from 0.
    pub ordinal: usize,
    /// `fp32`, `tf32` or `fp16`.
    pub precision: &'static str,
    /// Bytes that the columns of a convolution may take.
    pub workspace: usize,
    /// Whether steps are recorded as graphs and replayed; results are the same.
    pub graphs: bool,
    /// Whether graphs run weight gradients beside what follows them.
    pub branches: Branches,
    /// How many training steps are one graph.
    pub graph_steps: GraphSteps,
    /// How convolutions and linear layers are computed, where they can be; none is the fastest.
    pub algorithm: Option<Algorithm>,
    /// By the names of [`Choice`], what a run has chosen that goes on; it comes before what is fastest here.
    pub recorded: BTreeMap<String, Algorithm>,
}

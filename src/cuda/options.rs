//! How a CUDA device is used: what is decided before it is opened.

use std::collections::BTreeMap;

use crate::ops::{Algorithm, Precision};

/// Bytes that the columns of convolutions may take, unless asked otherwise.
pub const DEFAULT_WORKSPACE: usize = 512_000_000;

/// How a CUDA device is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of the device, from 0.
    pub ordinal: usize,
    pub precision: Precision,
    /// Bytes that the columns of a convolution may take.
    pub workspace: usize,
    /// Whether programs are captured as graphs and replayed; results are the same.
    pub graphs: bool,
    /// How convolutions and linear layers are computed, where they can be; none is the fastest.
    pub algorithm: Option<Algorithm>,
    /// By the names of [`Choice`](crate::ops::Choice), what a resumed run has chosen; it comes before what is fastest here.
    pub recorded: BTreeMap<String, Algorithm>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ordinal: 0,
            precision: Precision::default(),
            workspace: DEFAULT_WORKSPACE,
            graphs: true,
            algorithm: None,
            recorded: BTreeMap::new(),
        }
    }
}

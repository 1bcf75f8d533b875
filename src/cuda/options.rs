//! How a CUDA device is used: options that are fixed before it is opened.

use std::collections::BTreeMap;

use crate::ops::{Algorithm, Candidate, Precision};

/// Default limit in bytes for the im2col columns of a convolution.
pub const DEFAULT_WORKSPACE: usize = 512_000_000;

/// How a CUDA device is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Index of the device, starting at 0.
    pub ordinal: usize,
    pub precision: Precision,
    /// Limit in bytes for the im2col columns of a convolution.
    pub workspace: usize,
    /// Whether to capture programs as CUDA graphs and replay them; the results are the same either way.
    pub graphs: bool,
    /// Whether to schedule the blocks of a kernel while the previous kernel completes, where device and driver allow it;
    /// the results are the same either way.
    pub dependent_launches: bool,
    /// Algorithm for all convolutions and linear layers that support it; `None` selects the fastest for each.
    pub algorithm: Option<Algorithm>,
    /// With implicit GEMM as the algorithm: the tile wherever it applies; `None` selects the usual one for each.
    pub tile: Option<&'static str>,
    /// Choices of the run being resumed, by [`Choice::site`](crate::ops::Choice), as files name candidates; they take
    /// precedence over the fastest.
    pub recorded: BTreeMap<String, String>,
}

impl Options {
    /// The candidate that is requested for all operators.
    pub(super) fn requested(&self) -> Option<Candidate> {
        self.algorithm.map(|algorithm| Candidate { algorithm, tile: self.tile })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ordinal: 0,
            precision: Precision::default(),
            workspace: DEFAULT_WORKSPACE,
            graphs: true,
            dependent_launches: true,
            algorithm: None,
            tile: None,
            recorded: BTreeMap::new(),
        }
    }
}

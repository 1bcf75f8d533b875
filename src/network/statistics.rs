//! The running statistics of a network's batch normalisations, which are state but not parameters.

use std::ops::Range;

use super::Network;

/// The running statistics of one batch normalisation. In files they are `running_mean`, `running_var` and
/// `num_batches_tracked` under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningStatistics {
    /// PyTorch's module path.
    pub name: String,
    pub channels: usize,
    /// Offset in the flat buffer.
    pub offset: usize,
}

impl RunningStatistics {
    /// Means, then variances.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + 2 * self.channels
    }
}

/// The values of all running statistics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Flat: for each batch normalisation, its means, then its variances.
    pub values: Vec<f32>,
    /// For each batch normalisation, the number of training steps that updated it.
    pub batches_tracked: Vec<i64>,
}

/// The trained state of a network: parameters and running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Flat, in memory layout.
    pub parameters: Vec<f32>,
    pub statistics: Statistics,
}

impl Network {
    /// Total number of values in all running statistics.
    pub fn statistics_len(&self) -> usize {
        self.statistics.last().map_or(0, |last| last.range().end)
    }

    /// Mean 0 and variance 1 for every channel.
    pub fn initial_statistics(&self) -> Statistics {
        let initial = |norm: &RunningStatistics| [vec![0.0; norm.channels], vec![1.0; norm.channels]].concat();
        Statistics {
            values: self.statistics.iter().flat_map(initial).collect(),
            batches_tracked: vec![0; self.statistics.len()],
        }
    }

    /// Initial parameters and statistics.
    pub fn initial_weights(&self, seed: u64) -> Weights {
        Weights { parameters: self.initial_parameters(seed), statistics: self.initial_statistics() }
    }
}

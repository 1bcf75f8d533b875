//! What a network keeps besides its parameters: the running statistics of its batch normalisations.

use std::ops::Range;

use super::Network;

/// Those of one batch normalisation. In files they are `running_mean`, `running_var` and `num_batches_tracked` under its
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningStatistics {
    /// PyTorch's module path.
    pub name: String,
    pub channels: usize,
    /// Where they begin in the flat buffer.
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
    /// Flat: of each batch normalisation its means, then its variances.
    pub values: Vec<f32>,
    /// Training steps that went into them, for each batch normalisation.
    pub batches_tracked: Vec<i64>,
}

/// All that makes a network compute what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Flat, in memory layout.
    pub parameters: Vec<f32>,
    pub statistics: Statistics,
}

impl Network {
    /// Numbers in all running statistics together.
    pub fn statistics_len(&self) -> usize {
        self.statistics.last().map_or(0, |last| last.range().end)
    }

    /// Mean 0 and variance 1 everywhere.
    pub fn initial_statistics(&self) -> Statistics {
        let of_one = |one: &RunningStatistics| [vec![0.0; one.channels], vec![1.0; one.channels]].concat();
        Statistics {
            values: self.statistics.iter().flat_map(of_one).collect(),
            batches_tracked: vec![0; self.statistics.len()],
        }
    }

    /// Initial parameters and statistics.
    pub fn initial_weights(&self, seed: u64) -> Weights {
        Weights { parameters: self.initial_parameters(seed), statistics: self.initial_statistics() }
    }
}

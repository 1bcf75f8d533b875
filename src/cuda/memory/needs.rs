//! What a plan takes on a device, and what fits where that is too much.

use crate::cuda::scratch::{MAX_DIRECT_PARTIALS, MAX_PARTIALS};
use crate::ops::MemorySizes;

/// Bytes that a plan takes on the device.
pub(super) struct Needs {
    /// Parameters, gradients, optimiser state, statistics.
    state: usize,
    pub partials: usize,
    pub counters: usize,
    pub columns: usize,
    /// Activations, their gradients and indices.
    activations: usize,
    /// Of those, what one sample takes at most, in training or evaluation.
    sample: usize,
    /// Columns of one sample, and what those of a batch may take.
    sample_columns: usize,
    workspace: usize,
}

/// Bytes of the columns of convolutions.
pub(in crate::cuda) fn columns_bytes(sizes: &MemorySizes, real_size: usize, workspace: usize) -> usize {
    (sizes.columns * real_size).min(workspace.max(sizes.sample_columns * real_size))
}

impl Needs {
    pub fn new(sizes: &MemorySizes, real_size: usize, workspace: usize) -> Self {
        let sample_columns = sizes.sample_columns * real_size;
        let half = if real_size == 2 { 2 * sizes.parameters } else { 0 };
        Self {
            state: 4 * (sizes.parameters + sizes.gradients + sizes.momentum + sizes.average + sizes.statistics) + half,
            partials: 4 * (2 * MAX_PARTIALS * sizes.max_channels).max(MAX_DIRECT_PARTIALS),
            counters: 4 * sizes.max_channels.max(1),
            columns: columns_bytes(sizes, real_size, workspace),
            activations: sizes.arena * real_size + sizes.indices * 4,
            sample: sizes.sample_arena * real_size + sizes.sample_indices * 4,
            sample_columns,
            workspace,
        }
    }

    pub fn total(&self) -> usize {
        self.state + self.partials + self.counters + self.columns + self.activations
    }

    /// What smaller batches, of training and evaluation, would take.
    fn total_for(&self, smaller: usize) -> usize {
        let columns = self.sample_columns.saturating_mul(smaller).min(self.workspace.max(self.sample_columns));
        self.state + self.partials + self.counters + columns + self.sample * smaller
    }

    pub fn too_much(&self, batch: usize, free: usize, total: usize) -> String {
        let megabytes = |bytes: usize| bytes.div_ceil(1_000_000);
        // The driver rounds every allocation up: what fits to the byte may not fit.
        let usable = free / 20 * 19;
        let (mut fitting, mut beyond) = (0, batch.max(1));
        while fitting + 1 < beyond {
            let middle = fitting.midpoint(beyond);
            if self.total_for(middle) <= usable { fitting = middle } else { beyond = middle }
        }
        let advice = match fitting {
            0 => "no batch fits; try --workspace-mb with a smaller number, or another device".to_string(),
            fitting => format!("a batch of up to {fitting} would fit: see --batch-size and --eval-batch-size"),
        };
        format!(
            "not enough memory on the device: the plan needs {} MB for a batch of {batch}, {} of {} MB are free; {advice}",
            megabytes(self.total()),
            megabytes(free),
            megabytes(total)
        )
    }
}

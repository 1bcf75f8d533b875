//! What a plan takes on a device, and what fits where that is too much.

use crate::cuda::program::Buffer;
use crate::cuda::scratch::{MAX_DIRECT_PARTIALS, MAX_PARTIALS};
use crate::ops::{MemorySizes, Precision};

/// What a plan takes on the device, in bytes.
pub(in crate::cuda) struct Needs {
    /// Its regions and the scratch of its operators, and whether they begin with zeros, as state does.
    pub buffers: [(Buffer, usize, bool); 11],
    /// What the largest batch decides nothing of.
    fixed: usize,
    max_batch: usize,
    /// Of activations, their gradients and indices, what one sample takes at most, in training or evaluation.
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
    pub fn new(sizes: &MemorySizes, precision: Precision, workspace: usize) -> Self {
        let real_size = precision.real_size();
        let half_parameters = if precision == Precision::Fp16 { 2 * sizes.parameters } else { 0 };
        let partials = (2 * MAX_PARTIALS * sizes.max_channels).max(MAX_DIRECT_PARTIALS);
        let (anything, zeros) = (false, true);
        let buffers = [
            (Buffer::Arena, sizes.arena * real_size, anything),
            (Buffer::Parameters, 4 * sizes.parameters, zeros),
            (Buffer::HalfParameters, half_parameters, zeros),
            (Buffer::Gradients, 4 * sizes.gradients, zeros),
            (Buffer::Momentum, 4 * sizes.momentum, zeros),
            (Buffer::Average, 4 * sizes.average, zeros),
            (Buffer::Statistics, 4 * sizes.statistics, zeros),
            (Buffer::Indices, 4 * sizes.indices, anything),
            (Buffer::Columns, columns_bytes(sizes, real_size, workspace), anything),
            (Buffer::Partials, 4 * partials, anything),
            (Buffer::BlockCounters, 4 * sizes.max_channels.max(1), zeros),
        ];
        let of_a_batch = [Buffer::Arena, Buffer::Indices, Buffer::Columns];
        let fixed = buffers.iter().filter(|(buffer, ..)| !of_a_batch.contains(buffer)).map(|&(_, bytes, _)| bytes);
        Self {
            buffers,
            fixed: fixed.sum(),
            max_batch: sizes.max_batch,
            sample: sizes.sample_arena * real_size + sizes.sample_indices * 4,
            sample_columns: sizes.sample_columns * real_size,
            workspace,
        }
    }

    pub fn total(&self) -> usize {
        self.buffers.iter().map(|&(_, bytes, _)| bytes).sum()
    }

    /// What smaller batches, of training and evaluation, would take.
    fn total_for(&self, smaller: usize) -> usize {
        let columns = self.sample_columns.saturating_mul(smaller).min(self.workspace.max(self.sample_columns));
        self.fixed + columns + self.sample * smaller
    }

    /// What to say where `free` of `total` bytes are too few.
    pub fn too_much(&self, free: usize, total: usize) -> String {
        let megabytes = |bytes: usize| bytes.div_ceil(1_000_000);
        // The driver rounds every allocation up: what fits to the byte may not fit.
        let usable = free / 20 * 19;
        let batch = self.max_batch;
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

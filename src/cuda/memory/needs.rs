//! Device memory that a plan requires, and the largest batch that fits if that is too much.

use crate::cuda::program::Buffer;
use crate::cuda::scratch::{LOSS_PARTIAL, MAX_COLUMN_PARTIALS, MAX_DIRECT_PARTIALS, MAX_LOSS_BLOCKS, staged_offsets};
use crate::ops::{MemorySizes, Precision};

/// Device memory that a plan requires, in bytes.
pub(in crate::cuda) struct Requirements {
    /// The plan's regions and the scratch of its operators: buffer, bytes, and whether it must be zeroed, as state
    /// must.
    pub buffers: [(Buffer, usize, bool); 15],
    /// Bytes that do not depend on the batch size.
    fixed: usize,
    max_batch: usize,
    /// Activations, their gradients, indices and transformed bytes of one sample, the larger of training and evaluation.
    sample: usize,
    /// The im2col columns of one sample.
    sample_columns: usize,
    /// Limit for the columns of a batch.
    workspace: usize,
}

/// Bytes of the buffer for im2col columns: limited by `workspace`, but enough for one sample.
pub(in crate::cuda) fn columns_bytes(sizes: &MemorySizes, real_size: usize, workspace: usize) -> usize {
    (sizes.columns * real_size).min(workspace.max(sizes.sample_columns * real_size))
}

impl Requirements {
    pub fn new(sizes: &MemorySizes, precision: Precision, workspace: usize) -> Self {
        let real_size = precision.real_size();
        let rounded_parameters = if precision.is_16_bit() { 2 * sizes.parameters } else { 0 };
        let partials = MAX_COLUMN_PARTIALS.max(MAX_DIRECT_PARTIALS).max(LOSS_PARTIAL * MAX_LOSS_BLOCKS);
        let (uninitialised, zeroed) = (false, true);
        let buffers = [
            (Buffer::Arena, sizes.arena * real_size, uninitialised),
            (Buffer::Parameters, 4 * sizes.parameters, zeroed),
            (Buffer::RoundedParameters, rounded_parameters, zeroed),
            (Buffer::Gradients, 4 * sizes.gradients, zeroed),
            (Buffer::GradientSum, 4 * sizes.gradient_sum, zeroed),
            (Buffer::Momentum, 4 * sizes.momentum, zeroed),
            (Buffer::SecondMoment, 4 * sizes.second_moment, zeroed),
            (Buffer::Average, 4 * sizes.average, zeroed),
            (Buffer::Statistics, 4 * sizes.statistics, zeroed),
            (Buffer::Indices, 4 * sizes.indices, uninitialised),
            (Buffer::Columns, columns_bytes(sizes, real_size, workspace), uninitialised),
            (Buffer::Staged, staged_offsets(sizes.staged, sizes.max_batch)[4], uninitialised),
            (Buffer::Directions, sizes.directions * real_size, uninitialised),
            (Buffer::Partials, 4 * partials, uninitialised),
            (Buffer::BlockCounters, 4 * sizes.max_channels.max(1), zeroed),
        ];
        let batch_dependent = [Buffer::Arena, Buffer::Indices, Buffer::Columns, Buffer::Staged];
        let fixed = buffers.iter().filter(|(buffer, ..)| !batch_dependent.contains(buffer)).map(|&(_, bytes, _)| bytes);
        Self {
            buffers,
            fixed: fixed.sum(),
            max_batch: sizes.max_batch,
            sample: sizes.sample_arena * real_size + sizes.sample_indices * 4 + sizes.staged.iter().sum::<usize>(),
            sample_columns: sizes.sample_columns * real_size,
            workspace,
        }
    }

    pub fn total(&self) -> usize {
        self.buffers.iter().map(|&(_, bytes, _)| bytes).sum()
    }

    /// Bytes required if batches, of training and evaluation, were at most `smaller` samples.
    fn total_for(&self, smaller: usize) -> usize {
        let columns = self.sample_columns.saturating_mul(smaller).min(self.workspace.max(self.sample_columns));
        self.fixed + columns + self.sample * smaller
    }

    /// The error message if `free` of `total` bytes are too few.
    pub fn out_of_memory_message(&self, free: usize, total: usize) -> String {
        let megabytes = |bytes: usize| bytes.div_ceil(1_000_000);
        // The driver rounds every allocation up, so leave a margin.
        let usable = free / 20 * 19;
        let batch = self.max_batch;
        let (mut fitting, mut beyond) = (0, batch.max(1));
        while fitting + 1 < beyond {
            let middle = fitting.midpoint(beyond);
            if self.total_for(middle) <= usable { fitting = middle } else { beyond = middle }
        }
        let advice = match fitting {
            0 => "no batch fits; try a smaller --workspace-mb, or another device".to_string(),
            fitting => format!("a batch of up to {fitting} would fit (--batch-size, --eval-batch-size)"),
        };
        format!(
            "not enough memory on the device: the plan needs {} MB for a batch of {batch}, but {} of {} MB are \
             free; {advice}",
            megabytes(self.total()),
            megabytes(free),
            megabytes(total)
        )
    }
}

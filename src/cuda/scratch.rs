//! Sizes of the kernels' scratch buffers, shared by their allocation and the launches that use them.

/// Where the parts of a batch of transformed pictures begin, which have so many bytes per picture, and where the last ends.
pub(super) fn staged_offsets(bytes: [usize; 4], batch: usize) -> [usize; 5] {
    let mut offsets = [0; 5];
    for (part, bytes) in bytes.into_iter().enumerate() {
        offsets[part + 1] = offsets[part] + (bytes * batch).next_multiple_of(256);
    }
    offsets
}

/// Maximum blocks of a pass that sums columns, if several blocks sum the same columns.
pub(super) const MAX_COLUMN_BLOCKS: usize = 528;

/// Maximum floats of the blocks' column sums: two for each of `MOST_COLUMNS` channels in `kernels/reduce.cuh`.
pub(super) const MAX_COLUMN_PARTIALS: usize = MAX_COLUMN_BLOCKS * 2 * 64;

/// Maximum floats of partial sums of a direct weight gradient: one per block and weight.
pub(super) const MAX_DIRECT_PARTIALS: usize = MAX_DIRECT_BLOCKS * MAX_DIRECT_CHANNELS * 25;

/// Maximum blocks of a direct weight gradient: about one per multiprocessor of a large device.
pub(super) const MAX_DIRECT_BLOCKS: usize = 128;

/// Maximum output channels of a direct convolution; `MOST_CHANNELS` in `kernels/direct.cu`.
pub(super) const MAX_DIRECT_CHANNELS: usize = 32;

/// Maximum partial sums of a split-K product: elements of a tile, times tiles, times splits.
pub(super) const MAX_PART_SUMS: usize = 1 << 22;

/// Maximum partial results of a split-K product: tiles times splits.
pub(super) const MAX_PARTS: usize = 1024;

/// Maximum column sums over all tiles of a product, with up to three numbers for each column.
pub(super) const MAX_COLUMN_SUMS: usize = 1 << 22;

/// Maximum counters for column sums: one per tile column, and one per tile column and group of tiles.
pub(super) const MAX_COLUMN_COUNTERS: usize = 4096;

/// Maximum blocks that sum the squares of the gradients.
pub(super) const MAX_NORM_BLOCKS: usize = 1024;

/// Bytes reserved for the norm before its partial sums, which this keeps aligned.
pub(super) const NORM_BYTES: usize = 16;

/// Maximum blocks of the loss.
pub(super) const MAX_LOSS_BLOCKS: usize = 1024;

/// Floats of a block's sums of the loss; `struct Totals` in `kernels/loss.cu`.
pub(super) const LOSS_PARTIAL: usize = 4;

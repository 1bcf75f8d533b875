//! Sizes of the scratch that kernels work in, as it is allocated and as they are launched.

/// Partial sums of every channel, at most; there may be two kinds of them.
pub(super) const MAX_PARTIALS: usize = 256;

/// Floats of the partial sums of a direct weight gradient, at most: of every block, every weight.
pub(super) const MAX_DIRECT_PARTIALS: usize = MAX_DIRECT_BLOCKS * MAX_DIRECT_CHANNELS * 25;

/// Blocks of a direct weight gradient, at most: about one for each multiprocessor of a large device.
pub(super) const MAX_DIRECT_BLOCKS: usize = 128;

/// Output channels of a direct convolution, at most; `MOST_CHANNELS` in `kernels/direct.cu`.
pub(super) const MAX_DIRECT_CHANNELS: usize = 32;

/// Elements of a block's tile of a product, whatever its sides; `SUMS · BLOCK` in `kernels/tile.cuh`.
pub(super) const TILE: usize = 64 * 64;

/// Tiles of a product and their parts that are kept, at most.
pub(super) const MAX_PARTS: usize = 512;

/// Column sums of tiles that are kept, at most, and columns of tiles.
pub(super) const MAX_COLUMN_SUMS: usize = 1 << 20;
pub(super) const MAX_COLUMNS: usize = 1024;

/// The most blocks that sum the gradients' squares, and the bytes of the norm in front of their sums, which it keeps aligned.
pub(super) const MAX_NORM_BLOCKS: usize = 1024;
pub(super) const NORM_BYTES: usize = 16;

//! Partitions implicit products into tiles, one per block, and splits the tiles along the inner dimension (split-K).

use crate::cuda::scratch::MAX_PARTS;

/// Words of a tile along the inner dimension; `DEPTH` in `kernels/tile.cuh`.
const DEPTH: usize = 16;

/// Multiprocessors of the H100, for which products are partitioned. The partition depends on shape and precision alone
/// and not on the device, so that every device sums in the same order.
const MULTIPROCESSORS: usize = 132;

/// Clocks per mainloop iteration (`DEPTH` words) of a block that has a multiprocessor to itself, and of two blocks that
/// share one. All clocks are estimates for an H100 from the kernels' instructions and its memory latency.
const CLOCKS_PER_ITERATION: [usize; 2] = [600, 700];
const CLOCKS_PER_ITERATION_FP32: [usize; 2] = [900, 1450];

/// Clocks for a block's prologue and epilogue.
const CLOCKS_PER_BLOCK: usize = 900;

/// Clocks to add one partial result of a tile.
const CLOCKS_PER_PART: usize = 300;

/// Clocks for the last block of a tile to learn that all others have finished.
const CLOCKS_PER_SYNC: usize = 1000;

/// Maximum splits of a tile.
const MAX_SPLITS: usize = 128;

/// Partial results that one block adds up if there are many; `GROUP` in `kernels/product.cuh`.
const GROUP: usize = 8;

/// The shape of a block's tile; `kernels/implicit.cu` has kernels for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Square,
    Tall,
    Slim,
    Wide,
}

/// The tiles that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tiles {
    All,
    /// Weight gradients, which rarely have few columns.
    NotSlim,
    /// Scalar kernels, and strided input gradients.
    Square,
}

impl Tile {
    /// The tile of `tiles` that wastes the least on a narrow product.
    fn of(rows: usize, cols: usize, tiles: Tiles) -> Self {
        match (tiles, rows, cols) {
            (Tiles::Square, ..) => Self::Square,
            (Tiles::All, _, 0..=16) => Self::Slim,
            (_, _, 0..=32) => Self::Tall,
            (_, 0..=32, _) => Self::Wide,
            _ => Self::Square,
        }
    }

    fn sides(self) -> (usize, usize) {
        match self {
            Self::Square => (64, 64),
            Self::Tall => (128, 32),
            Self::Slim => (256, 16),
            Self::Wide => (32, 128),
        }
    }

    /// The tile's name in kernel names.
    pub fn name(self) -> String {
        let (rows, cols) = self.sides();
        format!("{rows}x{cols}")
    }

    /// Bytes of shared memory for two tiles of each operand (double buffering).
    pub fn shared_bytes(self) -> u32 {
        let (rows, cols) = self.sides();
        (2 * DEPTH * (rows + cols) * 4) as u32
    }
}

/// The partition of a product `[rows, cols]` over `depth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SplitK {
    pub tile: Tile,
    pub tiles: usize,
    pub splits: usize,
}

impl SplitK {
    /// `per_word` is the number of elements per 4-byte word; `fp32` means that tensor cores are not used.
    pub fn new([rows, cols, depth]: [usize; 3], tiles: Tiles, per_word: usize, fp32: bool) -> Self {
        let [alone, shared] = if fp32 { CLOCKS_PER_ITERATION_FP32 } else { CLOCKS_PER_ITERATION };
        let tile = Tile::of(rows, cols, tiles);
        let (tile_rows, tile_cols) = tile.sides();
        let tiles = rows.div_ceil(tile_rows) * cols.div_ceil(tile_cols);
        let iterations = depth.div_ceil(DEPTH * per_word).max(1);
        let clocks = |&splits: &usize| {
            let (blocks, per_split) = ((tiles * splits).div_ceil(MULTIPROCESSORS), iterations.div_ceil(splits));
            let pairs = blocks / 2 * (per_split * shared + CLOCKS_PER_BLOCK);
            let last = blocks % 2 * (per_split * alone + CLOCKS_PER_BLOCK);
            let reduction = match splits {
                1 => 0,
                ..=16 => CLOCKS_PER_SYNC + splits * CLOCKS_PER_PART,
                _ => 2 * CLOCKS_PER_SYNC + (GROUP + splits.div_ceil(GROUP)) * CLOCKS_PER_PART,
            };
            pairs + last + reduction
        };
        let max_splits = MAX_SPLITS.min(iterations).min(MAX_PARTS / tiles.max(1));
        // Exclude partitions with an empty split.
        let possible = (2..=max_splits).filter(|&splits| (splits - 1) * iterations.div_ceil(splits) < iterations);
        let splits = std::iter::once(1).chain(possible).min_by_key(clocks).unwrap_or(1);
        Self { tile, tiles, splits }
    }
}

#[cfg(test)]
mod tests {
    use super::{GROUP, MAX_PARTS, MAX_SPLITS, SplitK, Tile, Tiles};

    #[test]
    fn narrow_products_get_narrow_tiles() {
        assert_eq!(
            [(5, 5), (4096, 17), (16, 4096), (4096, 33)].map(|(rows, cols)| Tile::of(rows, cols, Tiles::All)),
            [Tile::Slim, Tile::Tall, Tile::Wide, Tile::Square]
        );
        let sixteen_columns = [Tiles::NotSlim, Tiles::Square].map(|tiles| Tile::of(4096, 16, tiles));
        assert_eq!(sixteen_columns, [Tile::Tall, Tile::Square]);
    }

    #[test]
    fn no_split_is_empty_and_all_fit_the_scratch() {
        for rows in [1, 30, 64, 1000, 5000, 100_000] {
            for cols in [1, 9, 64, 144, 2048] {
                for depth in [0, 1, 9, 64, 100, 576, 43_264, 1 << 30] {
                    for (per_word, kinds, fp32) in
                        [(1, Tiles::All, true), (2, Tiles::NotSlim, false), (1, Tiles::Square, false)]
                    {
                        let SplitK { tiles, splits, .. } = SplitK::new([rows, cols, depth], kinds, per_word, fp32);
                        let iterations = depth.div_ceil(16 * per_word).max(1);
                        let per_split = iterations.div_ceil(splits);
                        assert!(splits <= MAX_SPLITS);
                        assert!(splits == 1 || tiles * splits <= MAX_PARTS, "{tiles} {splits}");
                        let counters = if splits > 2 * GROUP { tiles * (1 + splits.div_ceil(GROUP)) } else { tiles };
                        assert!(splits == 1 || counters <= MAX_PARTS, "{counters} counters");
                        assert!(
                            per_split * (splits - 1) < iterations,
                            "a split of {splits} is empty over {iterations}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn few_tiles_over_a_long_inner_dimension_are_split() {
        let splits = |size| SplitK::new(size, Tiles::All, 1, false).splits;
        assert!(splits([64, 64, 10_000]) > 16 && splits([16, 72, 1200]) > 16);
        assert_eq!((splits([64, 64, 16]), splits([100_000, 64, 576])), (1, 1));
    }
}

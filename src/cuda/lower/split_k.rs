//! Partitions implicit products into tiles, one per block, and splits the tiles along the inner dimension (split-K).

use super::tile::{Engine, Tile};
use crate::cuda::scratch::{MAX_PARTS, TILE};

/// Multiprocessors of the H100, for which products are partitioned. The partition depends on shape, tile and precision
/// alone and not on the device, so that every device sums in the same order.
const MULTIPROCESSORS: usize = 132;

/// Clocks per mainloop iteration of a block that has a multiprocessor to itself, and of two blocks that share one. All
/// clocks are estimates for an H100 from the kernels' instructions and its memory latency.
fn clocks_per_iteration(tile: &Tile, fp32: bool) -> [usize; 2] {
    match (tile.engine, fp32) {
        (Engine::Synchronous, false) => [600, 700],
        (Engine::Synchronous, true) => [900, 1450],
    }
}

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

/// The partition of a product `[rows, cols]` over `depth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SplitK {
    pub tiles: usize,
    pub splits: usize,
}

impl SplitK {
    /// `per_word` is the number of elements per 4-byte word; `fp32` means that tensor cores are not used.
    pub fn new([rows, cols, depth]: [usize; 3], tile: &Tile, per_word: usize, fp32: bool) -> Self {
        let [alone, shared] = clocks_per_iteration(tile, fp32);
        let tiles = rows.div_ceil(tile.rows) * cols.div_ceil(tile.cols);
        let iterations = depth.div_ceil(tile.depth * per_word).max(1);
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
        // The scratch holds `MAX_PARTS` counters, and partial results of as many tiles of `TILE` elements.
        let max_parts = MAX_PARTS.min(MAX_PARTS * TILE / (tile.rows * tile.cols));
        let max_splits = MAX_SPLITS.min(iterations).min(max_parts / tiles.max(1));
        // Exclude partitions with an empty split.
        let possible = (2..=max_splits).filter(|&splits| (splits - 1) * iterations.div_ceil(splits) < iterations);
        let splits = std::iter::once(1).chain(possible).min_by_key(clocks).unwrap_or(1);
        Self { tiles, splits }
    }
}

#[cfg(test)]
mod tests {
    use super::{GROUP, MAX_PARTS, MAX_SPLITS, SplitK, TILE};
    use crate::cuda::lower::tile::TILES;

    #[test]
    fn no_split_is_empty_and_all_fit_the_scratch() {
        for tile in TILES {
            for rows in [1, 30, 64, 1000, 5000, 100_000] {
                for cols in [1, 9, 64, 144, 2048] {
                    for depth in [0, 1, 9, 64, 100, 576, 43_264, 1 << 30] {
                        for (per_word, fp32) in [(1, true), (2, false), (1, false)] {
                            let SplitK { tiles, splits } = SplitK::new([rows, cols, depth], tile, per_word, fp32);
                            let iterations = depth.div_ceil(tile.depth * per_word).max(1);
                            assert!(splits <= MAX_SPLITS);
                            let sums = tiles * splits * tile.rows * tile.cols;
                            assert!(splits == 1 || sums <= MAX_PARTS * TILE, "{tiles} {splits} {}", tile.name);
                            let counters =
                                if splits > 2 * GROUP { tiles * (1 + splits.div_ceil(GROUP)) } else { tiles };
                            assert!(splits == 1 || counters <= MAX_PARTS, "{counters} counters");
                            let before_last = iterations.div_ceil(splits) * (splits - 1);
                            assert!(before_last < iterations, "a split of {splits} is empty over {iterations}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn few_tiles_over_a_long_inner_dimension_are_split() {
        let splits = |tile: &str, size| {
            let tile = TILES.iter().find(|it| it.name == tile).expect("a tile");
            SplitK::new(size, tile, 1, false).splits
        };
        assert!(splits("64x64", [64, 64, 10_000]) > 16 && splits("32x128", [16, 72, 1200]) > 16);
        assert_eq!((splits("64x64", [64, 64, 16]), splits("64x64", [100_000, 64, 576])), (1, 1));
    }
}

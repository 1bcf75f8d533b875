//! Splits the tiles of implicit products along the inner dimension (split-K), if there are too few to fill a device.

use super::tile::{Engine, Tile};
use crate::cuda::scratch::{MAX_PART_SUMS, MAX_PARTS};
use crate::ops::Precision;

/// Multiprocessors of the H100, for which products are split. The number depends on shape, tile and precision alone and
/// not on the device, so that every device sums in the same order.
const MULTIPROCESSORS: usize = 132;

/// Clocks per mainloop iteration of a block that has a multiprocessor to itself, and of two blocks that share one, of
/// [`Engine::Synchronous`]. All clocks are estimates for an H100 from the kernels' instructions and its memory latency.
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

/// Partial results that one block adds up if there are many; `GROUP` in `kernels/split.cuh`.
const GROUP: usize = 8;

/// Fewest iterations of a split of the asynchronous engines, whose pipelines take some to fill.
const MIN_ITERATIONS: usize = 4;

/// The number of splits for `tiles` tiles of `iterations` mainloop iterations each. No split is empty, and all partial
/// results and counters fit the scratch.
pub(super) fn splits(tile: &Tile, tiles: usize, iterations: usize, precision: Precision) -> usize {
    let (iterations, tiles) = (iterations.max(1), tiles.max(1));
    let most = MAX_SPLITS.min(iterations).min(MAX_PARTS / tiles).min(MAX_PART_SUMS / (tiles * tile.rows * tile.cols));
    // One counter per tile, and one per group of parts.
    let fits = |splits: usize| splits <= 2 * GROUP || tiles * (1 + splits.div_ceil(GROUP)) <= MAX_PARTS;
    let per_split = |splits: usize| iterations.div_ceil(splits);
    let possible = |&splits: &usize| fits(splits) && (splits - 1) * per_split(splits) < iterations;
    let choices = std::iter::once(1).chain((2..=most).filter(possible));
    let best = match tile.engine {
        Engine::Synchronous => choices.min_by_key(|&splits| clocks(tiles, splits, per_split(splits), precision)),
        // As many blocks as run at once on an H100. On an H200, weight gradients of one block per multiprocessor were
        // the fastest with warpgroups, and of two or three with warps.
        engine => {
            let at_once = if matches!(engine, Engine::Warpgroup | Engine::Patch) { 1 } else { 2 };
            let useful = |&splits: &usize| {
                splits == 1 || tiles * splits <= at_once * MULTIPROCESSORS && per_split(splits) >= MIN_ITERATIONS
            };
            choices.filter(useful).max()
        }
    };
    best.unwrap_or(1)
}

/// An estimate of a synchronous product's time.
fn clocks(tiles: usize, splits: usize, per_split: usize, precision: Precision) -> usize {
    let [alone, shared] = if precision == Precision::Fp32 { CLOCKS_PER_ITERATION_FP32 } else { CLOCKS_PER_ITERATION };
    let blocks = (tiles * splits).div_ceil(MULTIPROCESSORS);
    let pairs = blocks / 2 * (per_split * shared + CLOCKS_PER_BLOCK);
    let last = blocks % 2 * (per_split * alone + CLOCKS_PER_BLOCK);
    let reduction = match splits {
        1 => 0,
        ..=16 => CLOCKS_PER_SYNC + splits * CLOCKS_PER_PART,
        _ => 2 * CLOCKS_PER_SYNC + (GROUP + splits.div_ceil(GROUP)) * CLOCKS_PER_PART,
    };
    pairs + last + reduction
}

#[cfg(test)]
mod tests {
    use super::{GROUP, MAX_PART_SUMS, MAX_PARTS, MAX_SPLITS, splits};
    use crate::cuda::lower::tile::TILES;
    use crate::ops::Precision;

    #[test]
    fn no_split_is_empty_and_all_fit_the_scratch() {
        for tile in TILES {
            for tiles in [1, 2, 15, 18, 64, 300, 5000, 100_000] {
                for iterations in [0, 1, 3, 17, 100, 4096, 1 << 24] {
                    for precision in [Precision::Fp32, Precision::Fp16] {
                        let splits = splits(tile, tiles, iterations, precision);
                        assert!(splits <= MAX_SPLITS);
                        if splits == 1 {
                            continue;
                        }
                        let before_last = iterations.div_ceil(splits) * (splits - 1);
                        assert!(before_last < iterations, "a split of {splits} is empty over {iterations}");
                        assert!(tiles * splits * tile.rows * tile.cols <= MAX_PART_SUMS, "{tiles} {splits}");
                        let groups = if splits > 2 * GROUP { splits.div_ceil(GROUP) } else { 0 };
                        assert!(tiles * (1 + groups) <= MAX_PARTS, "{tiles} {splits}: too many counters");
                    }
                }
            }
        }
    }

    #[test]
    fn few_tiles_over_a_long_inner_dimension_are_split() {
        let splits = |tile: &str, tiles, iterations| {
            let tile = TILES.iter().find(|it| it.name == tile).expect("a tile");
            splits(tile, tiles, iterations, Precision::Tf32)
        };
        assert!(splits("64x64", 1, 625) > 16 && splits("32x128", 1, 75) > 16);
        assert_eq!((splits("64x64", 1, 1), splits("64x64", 1563, 36)), (1, 1));
        assert_eq!((splits("128x128_w8", 9, 1568), splits("64x64x128_4", 18, 100)), (14, 13));
        assert_eq!(splits("128x64x64_4", 133, 1000), 1);
    }
}

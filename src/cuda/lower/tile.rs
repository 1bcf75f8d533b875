//! The tiles of implicit GEMM: for each, what its kernels compute and where they run. A new tile is a row of this table
//! and its kernels.

use std::ops::RangeInclusive;

use anyhow::{Context, Result};

use super::Target;
use crate::ops::{Algorithm, Candidate, Precision};

/// How the kernels of a tile load and multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Loads pass through registers while the previous stage is multiplied (`kernels/implicit.cu`): by fused
    /// multiply-adds, or by a warp's tensor-core instructions if precision and device have them.
    Synchronous,
}

/// The products of implicit GEMM. A tile has one kernel for each product that it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) enum Product {
    Forward,
    /// Forward, followed by 2×2 max pooling.
    ForwardPooled,
    BackwardWeight,
    BackwardInput,
}

/// How a kernel reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loads {
    /// In vectors of 16 bytes: the channel counts must be multiples of that.
    Vectors,
    /// In vectors, for the input gradient of a convolution with a stride.
    StridedVectors,
    /// Element by element.
    Elements,
}

/// The part of a product that a block computes.
#[derive(Debug)]
pub(in crate::cuda) struct Tile {
    /// Its name in files, and the end of its kernels' names.
    pub name: &'static str,
    pub(super) engine: Engine,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Words of 4 bytes along the inner dimension that are in shared memory at once: per stage, and the stages.
    pub(super) depth: usize,
    stages: usize,
    /// Threads per block.
    pub(super) threads: u32,
    pub(in crate::cuda) products: &'static [Product],
    loads: Loads,
    pub(in crate::cuda) precisions: &'static [Precision],
    /// The compute capabilities of the devices that have its kernels, as 10·major + minor.
    pub(in crate::cuda) capabilities: RangeInclusive<u32>,
}

use Product::{BackwardInput, BackwardWeight, Forward, ForwardPooled};

/// All tiles, in the order in which they are tried.
pub(in crate::cuda) const TILES: &[Tile] = &[
    synchronous("64x64", [64, 64], Loads::Vectors, &[Forward, ForwardPooled, BackwardWeight, BackwardInput]),
    synchronous("128x32", [128, 32], Loads::Vectors, &[Forward, ForwardPooled, BackwardWeight, BackwardInput]),
    // Weight gradients rarely have few columns.
    synchronous("256x16", [256, 16], Loads::Vectors, &[Forward, ForwardPooled, BackwardInput]),
    synchronous("32x128", [32, 128], Loads::Vectors, &[Forward, ForwardPooled, BackwardWeight, BackwardInput]),
    synchronous("64x64_strided", [64, 64], Loads::StridedVectors, &[BackwardInput]),
    synchronous("64x64_scalar", [64, 64], Loads::Elements, &[Forward, ForwardPooled, BackwardWeight, BackwardInput]),
];

/// A tile of [`Engine::Synchronous`]: 4096 sums, 16 words deep, double-buffered.
const fn synchronous(name: &'static str, [rows, cols]: [usize; 2], loads: Loads, products: &'static [Product]) -> Tile {
    let precisions = &[Precision::Fp32, Precision::Tf32, Precision::Fp16];
    Tile {
        name,
        engine: Engine::Synchronous,
        rows,
        cols,
        depth: 16,
        stages: 2,
        threads: 256,
        products,
        loads,
        precisions,
        capabilities: 75..=u32::MAX,
    }
}

impl Product {
    /// The beginning of its kernels' names.
    fn stem(self) -> &'static str {
        match self {
            Forward => "conv2d_forward",
            ForwardPooled => "conv2d_forward_pooled",
            BackwardWeight => "conv2d_backward_weight",
            BackwardInput => "conv2d_backward_input",
        }
    }
}

impl Tile {
    /// The tile of a candidate of implicit GEMM.
    ///
    /// # Errors
    /// If there is no such tile.
    pub fn of(candidate: Candidate) -> Result<&'static Self> {
        let tile = TILES.iter().find(|tile| Some(tile.name) == candidate.tile);
        tile.with_context(|| format!("{candidate:?} names no tile"))
    }

    /// The name of the kernel for `product`.
    pub fn kernel(&self, product: Product) -> String {
        format!("{}_{}", product.stem(), self.name)
    }

    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        (self.stages * self.depth * (self.rows + self.cols) * 4) as u32
    }

    fn runs_on(&self, target: Target) -> bool {
        self.precisions.contains(&target.precision)
            && self.capabilities.contains(&target.device.capability)
            && self.shared_bytes() <= target.device.shared
    }
}

/// The tiles for a `[rows, cols]` product on `target`. The first is the one that is used unless another is faster: of
/// the synchronous tiles, the one that wastes the least on a narrow product.
pub(super) fn tiles(product: Product, loads: Loads, [rows, cols]: [usize; 2], target: Target) -> Vec<&'static Tile> {
    let usual = match (loads, rows, cols) {
        (Loads::Elements, ..) => "64x64_scalar",
        (Loads::StridedVectors, ..) => "64x64_strided",
        (Loads::Vectors, _, 0..=16) if product != BackwardWeight => "256x16",
        (Loads::Vectors, _, 0..=32) => "128x32",
        (Loads::Vectors, 0..=32, _) => "32x128",
        (Loads::Vectors, ..) => "64x64",
    };
    let applies = |tile: &&Tile| tile.products.contains(&product) && tile.loads == loads && tile.runs_on(target);
    let mut tiles: Vec<_> = TILES.iter().filter(applies).collect();
    tiles.sort_by_key(|tile| tile.name != usual);
    tiles
}

/// The candidate with this name in files; `None` if this program has no such algorithm or tile.
pub(in crate::cuda) fn named(name: &str) -> Option<Candidate> {
    let all = Algorithm::ALL.into_iter().filter(|&algorithm| algorithm != Algorithm::Implicit).map(Candidate::from);
    let tiles = TILES.iter().map(|tile| Candidate { algorithm: Algorithm::Implicit, tile: Some(tile.name) });
    all.chain(tiles).find(|candidate| candidate.to_string() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Algorithm, BackwardInput, BackwardWeight, Candidate, Forward, Loads, TILES, Target, named, tiles};
    use crate::cuda::lower::Device;
    use crate::ops::Precision;

    fn on(capability: u32, shared: u32) -> Target {
        Target { precision: Precision::Fp32, columns: 0, device: Device { capability, shared } }
    }

    fn names(product: super::Product, loads: Loads, sides: [usize; 2], target: Target) -> Vec<&'static str> {
        tiles(product, loads, sides, target).iter().map(|tile| tile.name).collect()
    }

    #[test]
    fn names_are_unique_and_can_be_read_back() {
        let unique: BTreeSet<&str> = TILES.iter().map(|tile| tile.name).collect();
        assert_eq!(unique.len(), TILES.len());
        for tile in TILES {
            let candidate = Candidate { algorithm: Algorithm::Implicit, tile: Some(tile.name) };
            assert_eq!(named(&format!("implicit {}", tile.name)), Some(candidate));
            // The scratch for column sums is sized for tiles of 32 rows.
            assert!(tile.rows >= 32 && tile.threads.is_multiple_of(32), "{}", tile.name);
        }
        assert_eq!(named("im2col"), Some(Algorithm::Gemm.into()));
        assert_eq!(["implicit", "implicit 1x1", "im2col 64x64", ""].map(named), [None; 4]);
    }

    #[test]
    fn narrow_products_get_narrow_tiles_first() {
        let first = |product, loads, sides| names(product, loads, sides, on(75, 48 * 1024))[0];
        let usual = [[5, 5], [4096, 17], [16, 4096], [4096, 33]].map(|sides| first(Forward, Loads::Vectors, sides));
        assert_eq!(usual, ["256x16", "128x32", "32x128", "64x64"]);
        assert_eq!(first(BackwardWeight, Loads::Vectors, [4096, 16]), "128x32");
        assert_eq!(first(BackwardInput, Loads::StridedVectors, [4096, 16]), "64x64_strided");
        assert_eq!(first(BackwardWeight, Loads::Elements, [4096, 16]), "64x64_scalar");
    }

    #[test]
    fn only_tiles_that_compute_the_product_and_run_on_the_device_are_candidates() {
        let on_usual = |product, loads| names(product, loads, [64, 64], on(90, 48 * 1024));
        assert_eq!(on_usual(Forward, Loads::Vectors), ["64x64", "128x32", "256x16", "32x128"]);
        assert_eq!(on_usual(BackwardWeight, Loads::Vectors), ["64x64", "128x32", "32x128"]);
        assert_eq!(on_usual(Forward, Loads::Elements), ["64x64_scalar"]);
        // Two stages of 16 words of 64 + 64 lines take 16 KB; the other tiles have more lines.
        assert_eq!(names(Forward, Loads::Vectors, [64, 64], on(90, 16 * 1024)), ["64x64"]);
        assert!(names(Forward, Loads::Vectors, [64, 64], on(70, 48 * 1024)).is_empty());
    }
}

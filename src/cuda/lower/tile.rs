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
    /// multiply-adds in fp32, by tensor cores in fp16 on devices before compute_80.
    Synchronous,
    /// Copies run several stages ahead of the tensor cores (`kernels/multistage.cu`).
    Multistage,
    /// Tensor cores multiply stages in shared memory (`kernels/warpgroup.cu`).
    Warpgroup,
    /// The same on a patch of the image that stays in shared memory (`kernels/patch.cu`).
    Patch,
    /// For few input channels, which lanes read from rows of the image in shared memory (`kernels/thin.cu`).
    Thin,
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
    /// Words of 4 bytes along the inner dimension that are in shared memory at once: per stage, and the stages. A
    /// [`Engine::Patch`] has stages of its weights only; a [`Engine::Thin`] none.
    pub(super) depth: usize,
    pub(super) stages: usize,
    /// Threads per block.
    pub(super) threads: u32,
    pub(in crate::cuda) products: &'static [Product],
    pub(super) loads: &'static [Loads],
    pub(in crate::cuda) precisions: &'static [Precision],
    /// The compute capabilities of the devices that have its kernels, as 10·major + minor.
    pub(in crate::cuda) capabilities: RangeInclusive<u32>,
}

use Engine::{Multistage, Patch, Synchronous, Thin, Warpgroup};
use Precision::{Bf16, Fp16, Fp32, Tf32};
use Product::{BackwardInput, BackwardWeight, Forward, ForwardPooled};

const ALL: &[Product] = &[Forward, ForwardPooled, BackwardWeight, BackwardInput];
/// Products whose rows are pixels.
const PIXELS: &[Product] = &[Forward, ForwardPooled, BackwardInput];

/// All tiles, in the order in which they are tried.
pub(in crate::cuda) const TILES: &[Tile] = &[
    synchronous("64x64", [64, 64], Loads::Vectors, ALL),
    synchronous("128x32", [128, 32], Loads::Vectors, ALL),
    // Weight gradients rarely have few columns.
    synchronous("256x16", [256, 16], Loads::Vectors, PIXELS),
    synchronous("32x128", [32, 128], Loads::Vectors, ALL),
    synchronous("64x64_strided", [64, 64], Loads::StridedVectors, &[BackwardInput]),
    synchronous("64x64_scalar", [64, 64], Loads::Elements, ALL),
    multistage("64x64x128_8", [64, 64, 32], 4, 256, PIXELS),
    multistage("64x64x128_4", [64, 64, 32], 3, 128, ALL),
    multistage("128x64x64_4", [128, 64, 16], 4, 128, ALL),
    multistage("128x32x64_4", [128, 32, 16], 4, 128, PIXELS),
    multistage("128x16x64_4", [128, 16, 16], 4, 128, &[Forward, ForwardPooled]),
    multistage("128x128x128_4", [128, 128, 32], 3, 128, &[Forward, ForwardPooled]),
    multistage("32x64x128_4", [32, 64, 32], 4, 128, &[BackwardWeight]),
    multistage("128x128x64_4", [128, 128, 16], 4, 128, &[BackwardWeight, BackwardInput]),
    Tile { loads: &[Loads::Elements], ..multistage("64x64x64_4_scalar", [64, 64, 16], 3, 128, ALL) },
    warpgroup("64x64_w4", [64, 64], 5, 128, ALL),
    warpgroup("128x64_w4", [128, 64], 4, 128, &[Forward, ForwardPooled, BackwardWeight]),
    warpgroup("128x64_w8", [128, 64], 4, 256, &[BackwardInput]),
    warpgroup("128x128_w8", [128, 128], 5, 256, ALL),
    warpgroup("256x128_w8", [256, 128], 4, 256, PIXELS),
    warpgroup("128x256_w8", [128, 256], 4, 256, &[Forward, ForwardPooled, BackwardWeight]),
    patch("patch_128x64_w8", [128, 64], 256, &[Forward, BackwardInput]),
    patch("patch_256x64_w8", [256, 64], 256, &[Forward, BackwardInput]),
    patch("patch_128x128_w4", [128, 128], 128, &[Forward, BackwardInput]),
    patch("patch_256x128_w8", [256, 128], 256, &[Forward, BackwardInput]),
    patch("patch_64x576_w12", [64, 576], 384, &[BackwardWeight]),
    thin("thin_128x16", [128, 16], &[Forward]),
    thin("thin_128x32", [128, 32], &[Forward]),
    thin("thin_128x64", [128, 64], &[Forward]),
    thin("thin_32x32", [32, 32], &[BackwardWeight]),
    thin("thin_64x32", [64, 32], &[BackwardWeight]),
    thin("thin_64x160", [64, 160], &[BackwardWeight]),
];

/// A tile of [`Engine::Synchronous`]: 4096 sums, 16 words deep, double-buffered.
const fn synchronous(name: &'static str, [rows, cols]: [usize; 2], loads: Loads, products: &'static [Product]) -> Tile {
    let loads: &'static [Loads] = match loads {
        Loads::Vectors => &[Loads::Vectors],
        Loads::StridedVectors => &[Loads::StridedVectors],
        Loads::Elements => &[Loads::Elements],
    };
    Tile {
        name,
        engine: Synchronous,
        rows,
        cols,
        depth: 16,
        stages: 2,
        threads: 256,
        products,
        loads,
        precisions: &[Fp32, Tf32, Fp16],
        capabilities: 75..=u32::MAX,
    }
}

const fn multistage(
    name: &'static str,
    [rows, cols, depth]: [usize; 3],
    stages: usize,
    threads: u32,
    products: &'static [Product],
) -> Tile {
    Tile {
        name,
        engine: Multistage,
        rows,
        cols,
        depth,
        stages,
        threads,
        products,
        loads: &[Loads::Vectors, Loads::StridedVectors],
        precisions: &[Tf32, Fp16, Bf16],
        capabilities: 80..=u32::MAX,
    }
}

const fn warpgroup(
    name: &'static str,
    [rows, cols]: [usize; 2],
    stages: usize,
    threads: u32,
    products: &'static [Product],
) -> Tile {
    let tile = multistage(name, [rows, cols, 32], stages, threads, products);
    Tile { engine: Warpgroup, capabilities: 90..=90, ..tile }
}

const fn patch(name: &'static str, [rows, cols]: [usize; 2], threads: u32, products: &'static [Product]) -> Tile {
    let tile = warpgroup(name, [rows, cols], 4, threads, products);
    Tile { engine: Patch, precisions: &[Fp16, Bf16], loads: &[Loads::Vectors], ..tile }
}

const fn thin(name: &'static str, [rows, cols]: [usize; 2], products: &'static [Product]) -> Tile {
    let tile = multistage(name, [rows, cols, 0], 0, 128, products);
    Tile { engine: Thin, loads: &[Loads::Vectors, Loads::Elements], ..tile }
}

impl Product {
    /// The beginning of its kernels' names with an engine.
    fn stem(self, engine: Engine) -> &'static str {
        match self {
            ForwardPooled if engine == Synchronous => "conv2d_forward_pooled",
            // The other engines' kernels take it as a parameter.
            Forward | ForwardPooled => "conv2d_forward",
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
        format!("{}_{}", product.stem(self.engine), self.name)
    }

    /// Whether its kernels compute the statistics and sums of batch normalisation, and add to input gradients.
    pub fn has_norm_epilogues(&self) -> bool {
        self.engine != Synchronous
    }

    /// Whether a target has kernels of the tile, and does not have faster ones for all that it computes.
    pub(in crate::cuda) fn runs_on(&self, target: Target) -> bool {
        let is_replaced = self.engine == Synchronous && uses_multistage(target);
        self.precisions.contains(&target.precision)
            && self.capabilities.contains(&target.device.capability)
            && !is_replaced
    }
}

/// Whether a target's products are those of [`Engine::Multistage`] rather than [`Engine::Synchronous`].
fn uses_multistage(target: Target) -> bool {
    target.precision != Fp32 && target.device.capability >= 80
}

/// The tile for a `[rows, cols]` product that is used unless another is faster: the one that wastes the least on a narrow
/// product.
pub(super) fn usual(product: Product, loads: Loads, [rows, cols]: [usize; 2], target: Target) -> &'static str {
    match (loads, rows, cols) {
        (Loads::Elements, ..) if uses_multistage(target) => "64x64x64_4_scalar",
        (_, 0..=32, _) if uses_multistage(target) && product == BackwardWeight => "32x64x128_4",
        _ if uses_multistage(target) && product == BackwardWeight => "64x64x128_4",
        (_, _, 0..=16) if uses_multistage(target) && product != BackwardInput => "128x16x64_4",
        (_, _, 0..=32) if uses_multistage(target) => "128x32x64_4",
        _ if uses_multistage(target) => "64x64x128_8",
        (Loads::Elements, ..) => "64x64_scalar",
        (Loads::StridedVectors, ..) => "64x64_strided",
        (Loads::Vectors, _, 0..=16) if product != BackwardWeight => "256x16",
        (Loads::Vectors, _, 0..=32) => "128x32",
        (Loads::Vectors, 0..=32, _) => "32x128",
        (Loads::Vectors, ..) => "64x64",
    }
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

    use super::{Algorithm, BackwardInput, BackwardWeight, Candidate, Forward, Loads, TILES, Target, named, usual};
    use crate::cuda::lower::Device;
    use crate::ops::Precision;

    fn on(precision: Precision, capability: u32) -> Target {
        Target { precision, columns: 0, device: Device { capability, shared: 48 * 1024 } }
    }

    #[test]
    fn names_are_unique_and_can_be_read_back() {
        let unique: BTreeSet<&str> = TILES.iter().map(|tile| tile.name).collect();
        assert_eq!(unique.len(), TILES.len());
        for tile in TILES {
            let candidate = Candidate { algorithm: Algorithm::Implicit, tile: Some(tile.name) };
            assert_eq!(named(&format!("implicit {}", tile.name)), Some(candidate));
            assert!(tile.threads.is_multiple_of(32), "{}", tile.name);
        }
        assert_eq!(named("im2col"), Some(Algorithm::Gemm.into()));
        assert_eq!(["implicit", "implicit 1x1", "im2col 64x64", ""].map(named), [None; 4]);
    }

    #[test]
    fn narrow_products_use_narrow_tiles() {
        let fp32 = |product, loads, sides| usual(product, loads, sides, on(Precision::Fp32, 75));
        let names = [[5, 5], [4096, 17], [16, 4096], [4096, 33]].map(|sides| fp32(Forward, Loads::Vectors, sides));
        assert_eq!(names, ["256x16", "128x32", "32x128", "64x64"]);
        assert_eq!(fp32(BackwardWeight, Loads::Vectors, [4096, 16]), "128x32");
        assert_eq!(fp32(BackwardInput, Loads::StridedVectors, [4096, 16]), "64x64_strided");
        assert_eq!(fp32(BackwardWeight, Loads::Elements, [4096, 16]), "64x64_scalar");
    }

    #[test]
    fn the_usual_tile_runs_on_the_target_and_computes_the_product() {
        for (precision, capability) in [(Precision::Fp32, 75), (Precision::Fp32, 90), (Precision::Fp16, 75)]
            .into_iter()
            .chain([Precision::Tf32, Precision::Fp16].into_iter().flat_map(|it| [(it, 80), (it, 90), (it, 120)]))
        {
            for product in super::ALL {
                for loads in [Loads::Vectors, Loads::StridedVectors, Loads::Elements] {
                    if loads == Loads::StridedVectors && *product != BackwardInput {
                        continue;
                    }
                    for sides in [[8, 8], [8, 1000], [1000, 8], [1000, 24], [1000, 1000]] {
                        let target = on(precision, capability);
                        let name = usual(*product, loads, sides, target);
                        let tile = TILES.iter().find(|tile| tile.name == name).expect("a tile");
                        assert!(tile.runs_on(target) && tile.products.contains(product), "{name} {product:?}");
                        assert!(tile.loads.contains(&loads), "{name} {loads:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_device_has_the_tiles_of_its_engines_only() {
        let names = |precision, capability| {
            let target = on(precision, capability);
            TILES.iter().filter(|tile| tile.runs_on(target)).map(|tile| tile.engine).collect::<Vec<_>>()
        };
        use super::Engine::{Multistage, Patch, Synchronous, Thin, Warpgroup};
        assert!(names(Precision::Fp32, 90).iter().all(|&engine| engine == Synchronous));
        assert!(names(Precision::Fp16, 75).iter().all(|&engine| engine == Synchronous));
        assert!(names(Precision::Fp16, 86).iter().all(|engine| [Multistage, Thin].contains(engine)));
        let hopper = names(Precision::Fp16, 90);
        assert!([Multistage, Warpgroup, Patch, Thin].iter().all(|engine| hopper.contains(engine)));
        assert!(!names(Precision::Tf32, 90).contains(&Patch) && !names(Precision::Fp16, 100).contains(&Warpgroup));
        assert!(names(Precision::Fp32, 70).is_empty());
    }
}

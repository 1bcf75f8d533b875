//! Which tiles can compute a product, and how each divides it into blocks.

use super::Target;
use super::split_k::splits;
use super::tile::{Engine, Loads, Product, Tile};
use crate::cuda::scratch::{MAX_COLUMN_COUNTERS, MAX_COLUMN_SUMS};
use crate::ops::Conv2d;

/// A product and what its tile depends on.
pub(super) struct ImplicitProduct {
    pub product: Product,
    pub op: Conv2d,
    pub batch: usize,
    /// Rows, columns and inner dimension. With pooling, a row is a pooling window.
    pub size: [usize; 3],
    pub loads: Loads,
    /// Whether a weight gradient can read the output's gradient in vectors of 16 bytes.
    pub vector_gradients: bool,
}

/// The blocks of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Tiles along the rows and the columns of the product, of which each has its part of column sums.
    pub down: usize,
    pub across: usize,
    /// Both sides of the launch's grid: its blocks along the product and the splits of the inner dimension, except for
    /// thin forward passes, whose blocks loop over tiles.
    pub sides: [usize; 2],
    /// Bytes of shared memory of a block.
    pub shared: u32,
}

/// Blocks of a thin forward pass, which loop over tiles: four per multiprocessor of an H100.
const THIN_BLOCKS: usize = 4 * 132;

/// Pixels of a thin convolution's tile; `THIN_PIXELS` in `kernels/thin.cuh`.
const THIN_PIXELS: usize = 128;

/// The stages of a warpgroup are aligned to the period of the swizzle, in bytes.
const ALIGNMENT: usize = 1024;

/// Channels of a patch that are in shared memory at once.
const PATCH_CHANNELS: usize = 64;

/// Places that a weight gradient by patches multiplies at once.
const PATCH_CHUNK: usize = 256;

impl Grid {
    /// Whether column sums of so many numbers per tile fit the scratch. If they do not, a separate pass computes them.
    pub fn sums_columns(&self, numbers: usize) -> bool {
        self.down.saturating_mul(numbers) <= MAX_COLUMN_SUMS
            && self.across * (1 + self.down.div_ceil(32)) <= MAX_COLUMN_COUNTERS
    }

    /// How many tiles of activations fit in a block's shared memory beside its results, when the product is complete.
    pub fn free_tiles(&self, tile: &Tile, target: Target) -> usize {
        let real = target.precision.real_size();
        (self.shared as usize).saturating_sub(ALIGNMENT + result_bytes(tile, real)) / (tile.rows * tile.cols * real)
    }
}

impl ImplicitProduct {
    /// The blocks of a tile; `None` if it does not compute this product on the target.
    pub fn grid(&self, tile: &Tile, target: Target) -> Option<Grid> {
        let computes = tile.products.contains(&self.product) && tile.loads.contains(&self.loads);
        if !computes || !tile.runs_on(target) {
            return None;
        }
        let grid = match tile.engine {
            Engine::Synchronous => self.in_tiles(tile, target),
            Engine::Multistage | Engine::Warpgroup => self.has_short_offsets().then(|| self.in_tiles(tile, target))?,
            Engine::Patch => self.in_patches(tile, target)?,
            Engine::Thin => self.in_thin_rows(tile, target)?,
        };
        (grid.shared <= target.device.shared).then_some(grid)
    }

    /// Whether an element of a tensor and a tap of a window fit the numbers that asynchronous copies compute with.
    fn has_short_offsets(&self) -> bool {
        let Ok(output) = self.op.output() else { return false };
        let longest = self.op.input.len().max(output.len());
        self.batch.saturating_mul(longest) < 1 << 31 && self.op.window.kernel <= 16
    }

    fn in_tiles(&self, tile: &Tile, target: Target) -> Grid {
        let [rows, cols, depth] = self.size;
        let (synchronous, real) = (tile.engine == Engine::Synchronous, target.precision.real_size());
        let down = match self.product {
            Product::BackwardInput if !synchronous => self.phases().map(|lines| lines.div_ceil(tile.rows)).sum(),
            // Each 32 rows hold eight pooling windows.
            Product::ForwardPooled if synchronous => (rows.div_ceil(8) * 32).div_ceil(tile.rows),
            Product::ForwardPooled => (4 * rows).div_ceil(tile.rows),
            _ => rows.div_ceil(tile.rows),
        };
        let across = cols.div_ceil(tile.cols);
        let splits = splits(tile, down * across, depth.div_ceil(tile.depth * 4 / real), target.precision);
        let stages = tile.stages * tile.depth * 4 * (tile.rows + tile.cols);
        let shared = match tile.engine {
            Engine::Synchronous => stages,
            _ if self.product == Product::BackwardWeight => stages,
            _ => stages.max(result_bytes(tile, real)),
        };
        let alignment = if tile.engine == Engine::Warpgroup { ALIGNMENT } else { 0 };
        Grid { down, across, sides: [down * across, splits], shared: (shared + alignment) as u32 }
    }

    /// The numbers of pixels of the input whose gradients have the same taps; `kernels/phase.cuh` explains it.
    fn phases(&self) -> impl Iterator<Item = usize> {
        let (stride, padding) = (self.op.window.stride, self.op.window.padding);
        let (batch, height, width) = (self.batch, self.op.input.height, self.op.input.width);
        let along = move |remainder: usize, size: usize| {
            let first = (remainder + padding.next_multiple_of(stride) - padding) % stride;
            size.saturating_sub(first).div_ceil(stride)
        };
        (0..stride * stride).map(move |phase| batch * along(phase / stride, height) * along(phase % stride, width))
    }

    /// Patches of consecutive places, in which a row of an image and an image are followed by their padding.
    fn in_patches(&self, tile: &Tile, target: Target) -> Option<Grid> {
        let (window, output, real) = (self.op.window, self.op.output().ok()?, target.precision.real_size());
        let (kernel, cols) = (window.kernel, self.size[1]);
        let (image, padding) = match self.product {
            Product::BackwardInput => (output, (kernel - 1).checked_sub(window.padding)?),
            _ => (self.op.input, window.padding),
        };
        let applies = window.stride == 1 && (2..=16).contains(&kernel) && padding < kernel && self.has_short_offsets();
        if !applies || !image.channels.is_multiple_of(PATCH_CHANNELS) {
            return None;
        }
        let pitch = image.width + padding;
        let places = self.batch * (image.height + padding) * pitch;
        let patch = |rows: usize| ((rows + (kernel - 1) * (pitch + 1)) * 128).next_multiple_of(1024);
        if self.product == Product::BackwardWeight {
            if kernel != 3 || !output.channels.is_multiple_of(PATCH_CHANNELS) {
                return None;
            }
            let (down, across) = (output.channels / PATCH_CHANNELS, image.channels / PATCH_CHANNELS);
            let splits = splits(tile, down * across, places.div_ceil(PATCH_CHUNK), target.precision);
            let shared = 2 * (patch(PATCH_CHUNK) + PATCH_CHUNK * 128) + 1024;
            return Some(Grid { down, across, sides: [down * across, splits], shared: shared as u32 });
        }
        let (down, across) = (places.div_ceil(tile.rows), cols.div_ceil(tile.cols));
        let patches = if image.channels > PATCH_CHANNELS { 2 } else { 1 };
        let shared = (patches * patch(tile.rows) + tile.stages * tile.cols * 128).max(result_bytes(tile, real)) + 1024;
        Some(Grid { down, across, sides: [down * across, 1], shared: shared as u32 })
    }

    /// Rows of the image in shared memory; `kernels/thin.cuh` computes the same sizes.
    fn in_thin_rows(&self, tile: &Tile, target: Target) -> Option<Grid> {
        let (op, output, real) = (self.op, self.op.output().ok()?, target.precision.real_size());
        let (channels, vector, unit) = (op.input.channels, 16 / real, 4 / real);
        let (kernel, stride, padding) = (op.window.kernel, op.window.stride, op.window.padding * channels);
        if channels > 4 || !self.has_short_offsets() {
            return None;
        }
        let left = padding.next_multiple_of(vector);
        let pitch = (left + op.input.width * channels + padding + 2).next_multiple_of(vector);
        let most = (THIN_PIXELS - 2 + output.width) / output.width + 1;
        let rows = (most.min(output.height) - 1) * stride + kernel;
        let (image, tiles) = (rows * pitch * real, self.batch * output.pixels().div_ceil(THIN_PIXELS));
        if self.product == Product::BackwardWeight {
            if !self.vector_gradients {
                return None;
            }
            let (down, across) = (self.size[0].div_ceil(tile.rows), self.size[1].div_ceil(tile.cols));
            let splits = splits(tile, down * across, tiles, target.precision);
            // The sums of four warps, or the gradients, the pixels' addresses and the image.
            let shared = (tile.rows * tile.cols * 16).max(THIN_PIXELS * (tile.rows * real + 4) + image);
            return Some(Grid { down, across, sides: [down * across, splits], shared: shared as u32 });
        }
        let is_shifted = unit == 2 && stride * channels % 2 == 1;
        let lead = if unit == 2 && !is_shifted { padding % 2 } else { 0 };
        let length = (lead + kernel * channels).next_multiple_of(unit);
        let steps = (kernel * length).div_ceil(8 * unit);
        let images = if is_shifted { 2 * image } else { image };
        let shared = tile.cols * (steps * 32 + 16) + steps * 64 + images + result_bytes(tile, real);
        let across = self.size[1].div_ceil(tile.cols);
        let sides = [tiles.min(THIN_BLOCKS), across];
        Some(Grid { down: sides[0], across, sides, shared: shared as u32 })
    }
}

/// Bytes of a tile's results in shared memory, and of a sum per column for each row of threads.
fn result_bytes(tile: &Tile, real: usize) -> usize {
    tile.rows * tile.cols * real + tile.threads as usize * (16 / real) * 4
}

//! Implicit matrix products: convolutions and linear layers in one launch, whose columns are never written.

use std::sync::Arc;

use anyhow::{Result, ensure};
use cudarc::driver::CudaStream;

use super::conv::window_args;
use super::kernels::{Arg, u32_arg};
use super::memory::Buffer;
use super::{Cuda, error};
use crate::ops::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward};

/// Elements of a block's tile, whatever its shape; `SUMS · BLOCK` in `kernels/tile.cuh`.
const TILE: usize = 64 * 64;

/// Words of a tile along the inner dimension; `DEPTH` in `kernels/tile.cuh`.
const DEPTH: usize = 16;

/// Blocks that fill a large device. Fewer tiles are split along the inner dimension until there are about as many: by
/// the shapes alone, so that every device adds in the same order.
const FILLING: usize = 256;

/// Tiles of a split along the inner dimension, at least: less is not worth adding up.
const TILES_OF_SPLIT: usize = 4;

/// Tiles and their parts that are kept at most: fewer than `FILLING` tiles are split, into fewer than twice as many.
const MAX_PARTS: usize = 2 * FILLING;

/// Where split products keep their parts.
pub(super) struct Scratch {
    partials: Buffer,
    /// Blocks that are done, for every tile; zero between launches.
    counters: Buffer,
}

impl Scratch {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let partials = Buffer::new(stream, MAX_PARTS * TILE * 4).map_err(error::driver)?;
        let counters = Buffer::zeroed(stream, FILLING * 4).map_err(error::driver)?;
        Ok(Self { partials, counters })
    }
}

/// A block's tile, numbered as in `kernels/implicit.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tile {
    Square,
    Tall,
    Wide,
}

impl Tile {
    /// The one that wastes least where a product is narrow.
    fn of(rows: usize, cols: usize) -> Self {
        match (rows, cols) {
            (_, 0..=32) => Self::Tall,
            (0..=32, _) => Self::Wide,
            _ => Self::Square,
        }
    }

    fn sides(self) -> (usize, usize) {
        match self {
            Self::Square => (64, 64),
            Self::Tall => (128, 32),
            Self::Wide => (32, 128),
        }
    }
}

/// How a product `[rows, cols]` over `depth` is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    tile: Tile,
    tiles: usize,
    splits: usize,
}

impl Cut {
    fn new(rows: usize, cols: usize, depth: usize, per_word: usize) -> Self {
        let tile = Tile::of(rows, cols);
        let (tall, wide) = tile.sides();
        let tiles = rows.div_ceil(tall) * cols.div_ceil(wide);
        let along = depth.div_ceil(DEPTH * per_word);
        let wanted = if tiles < FILLING { FILLING.div_ceil(tiles) } else { 1 };
        let tiles_of_split = along.div_ceil(wanted).max(TILES_OF_SPLIT.min(along)).max(1);
        // Every split has something to do.
        Self { tile, tiles, splits: along.div_ceil(tiles_of_split).max(1) }
    }
}

/// One launch: `rows · cols` sums over `depth`.
struct Job<'a> {
    kernel: &'a str,
    op: &'a Conv2d,
    batch: usize,
    size: [usize; 3],
    /// Addresses of the two operands, then of whatever else the kernel takes.
    tensors: &'a [u64],
    /// Lengths along which the operands are contiguous: vectors are read where they are whole vectors.
    contiguous: &'a [usize],
    more: &'a [Arg],
}

impl Cuda {
    /// Whether the kernels' 32-bit indices suffice.
    pub(super) fn has_implicit(op: &Conv2d, batch: usize) -> bool {
        let Ok(output) = op.output() else { return false };
        let limit = 1 << 31;
        let pixels = op.input.pixels().max(output.pixels());
        batch.saturating_mul(pixels) < limit
            && op.patch_len() < limit
            && op.window.kernel.pow(2) * op.out_channels < limit
    }

    /// `output = activation(windows · Wᵀ + bias)`, not pooled.
    pub(super) fn implicit_forward(&self, op: &Conv2d, batch: usize, spans: Conv2dForward) -> Result<()> {
        let (shape, memory) = (op.output()?, self.memory()?);
        let tensors = [
            memory.address(spans.input.first(batch * op.input.len()))?,
            memory.weight_address(spans.weight)?,
            spans.bias.map_or(Ok(0), |bias| memory.address(bias))?,
            memory.address(spans.output.first(batch * shape.len()))?,
        ];
        self.implicit(Job {
            kernel: "conv2d_forward",
            op,
            batch,
            size: [batch * shape.pixels(), op.out_channels, op.patch_len()],
            tensors: &tensors,
            contiguous: &[op.input.channels],
            more: &[Arg::F32(spans.activation.negative_slope())],
        })
    }

    /// `d_weight = d_outputᵀ · windows`
    pub(super) fn implicit_weight(&self, op: &Conv2d, batch: usize, spans: Conv2dBackwardWeight) -> Result<()> {
        let (shape, memory) = (op.output()?, self.memory()?);
        let tensors = [
            memory.address(spans.input.first(batch * op.input.len()))?,
            memory.address(spans.d_output.first(batch * shape.len()))?,
            memory.address(spans.d_weight.first(op.weight_len()))?,
        ];
        self.implicit(Job {
            kernel: "conv2d_backward_weight",
            op,
            batch,
            size: [op.out_channels, op.patch_len(), batch * shape.pixels()],
            tensors: &tensors,
            contiguous: &[op.input.channels, op.out_channels],
            more: &[],
        })
    }

    /// `d_input = gradients over each pixel · W`, without its epilogue.
    pub(super) fn implicit_input(&self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        let (shape, memory) = (op.output()?, self.memory()?);
        let tensors = [
            memory.address(spans.d_output.first(batch * shape.len()))?,
            memory.weight_address(spans.weight)?,
            memory.address(spans.d_input.first(batch * op.input.len()))?,
        ];
        let depth = op.window.kernel * op.window.kernel * op.out_channels;
        self.implicit(Job {
            kernel: "conv2d_backward_input",
            op,
            batch,
            size: [batch * op.input.pixels(), op.input.channels, depth],
            tensors: &tensors,
            contiguous: &[op.input.channels, op.out_channels],
            more: &[],
        })
    }

    fn implicit(&self, job: Job<'_>) -> Result<()> {
        let Job { kernel, op, batch, size: [rows, cols, depth], tensors, contiguous, more } = job;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let lanes = self.vector();
        let cut = Cut::new(rows, cols, depth, lanes / 4);
        ensure!(cut.splits == 1 || cut.tiles * cut.splits <= MAX_PARTS, "{cut:?} has too many parts");
        let vector = contiguous.iter().all(|length| length.is_multiple_of(lanes))
            && tensors[..2].iter().all(|address| address.is_multiple_of(16));
        let mut args: Vec<Arg> = tensors.iter().map(|&address| Arg::Pointer(address)).collect();
        args.extend([&self.scratch.partials, &self.scratch.counters].map(|buffer| Arg::Pointer(buffer.address())));
        args.push(u32_arg(batch)?);
        let mut window = window_args(op.input, op.output()?, op.window)?;
        window.insert(5, u32_arg(op.out_channels)?);
        args.append(&mut window);
        args.extend([Arg::U32(cut.tile as u32), Arg::U32(vector.into())]);
        args.extend_from_slice(more);
        let engine = if self.tensor_cores { "tensor" } else { "implicit" };
        let grid = [u32::try_from(cut.tiles)?, u32::try_from(cut.splits)?];
        self.kernels.launch_grid(&self.stream, &format!("{kernel}_{engine}"), grid, &args)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, FILLING, MAX_PARTS, Tile};

    #[test]
    fn narrow_products_have_narrow_tiles() {
        assert_eq!(
            [(5, 5), (4096, 16), (16, 4096), (4096, 33)].map(|(rows, cols)| Tile::of(rows, cols)),
            [Tile::Tall, Tile::Tall, Tile::Wide, Tile::Square]
        );
    }

    #[test]
    fn every_split_has_work_and_all_fit_the_scratch() {
        for rows in [1, 30, 64, 1000, 5000, 100_000] {
            for cols in [1, 9, 64, 144, 2048] {
                for depth in [1, 9, 64, 100, 576, 43_264, 1 << 30] {
                    for per_word in [1, 2] {
                        let Cut { tiles, splits, .. } = Cut::new(rows, cols, depth, per_word);
                        let along = depth.div_ceil(16 * per_word);
                        let each = along.div_ceil(splits);
                        assert!(splits == 1 || (tiles < FILLING && tiles * splits <= MAX_PARTS), "{tiles} {splits}");
                        assert!(each * (splits - 1) < along, "a split of {splits} is empty over {along}");
                    }
                }
            }
        }
    }
}

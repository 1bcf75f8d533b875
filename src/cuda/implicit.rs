//! Implicit matrix products: convolutions and linear layers in one launch, whose columns are never written.

use std::sync::Arc;

use anyhow::{Result, ensure};
use cudarc::driver::CudaStream;

use super::conv::window_args;
use super::cut::{Cut, MAX_PARTS, TILE, Tiles};
use super::kernels::{Arg, u32_arg};
use super::memory::Buffer;
use super::{Cuda, error};
use crate::ops::{Activation, BiasOps, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, MaxPool2d};
use crate::shape::Window;

/// Column sums of tiles that are kept at most, and columns of tiles: a product with more sums its bias gradient in a pass
/// of its own.
const MAX_COLUMN_SUMS: usize = 1 << 20;
const MAX_COLUMNS: usize = 1024;

/// Where split products keep their parts, and tiles their column sums.
pub(super) struct Scratch {
    partials: Buffer,
    column_sums: Buffer,
    /// Blocks that are done, for every tile, every group of its parts, and then for every column of tiles; zero between
    /// launches.
    counters: Buffer,
}

impl Scratch {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let partials = Buffer::new(stream, MAX_PARTS * TILE * 4).map_err(error::driver)?;
        let column_sums = Buffer::new(stream, MAX_COLUMN_SUMS * 4).map_err(error::driver)?;
        let counters = Buffer::zeroed(stream, (MAX_PARTS + MAX_COLUMNS) * 4).map_err(error::driver)?;
        Ok(Self { partials, column_sums, counters })
    }

    fn column_counters(&self) -> u64 {
        self.counters.address() + (MAX_PARTS * 4) as u64
    }
}

/// Whether a pooling ends the convolution before it in one launch.
pub(super) fn fuses(pool: &MaxPool2d) -> bool {
    pool.window == Window { kernel: 2, stride: 2, padding: 0 } && !pool.ceil_mode
}

/// Whether there is room for the column sums of a product's tiles.
pub(super) fn sums_columns(rows: usize, cols: usize) -> bool {
    // Whatever its tile: none is lower than 32 rows, or narrower than 32 columns where there are more.
    rows.div_ceil(32).saturating_mul(cols) <= MAX_COLUMN_SUMS && cols.div_ceil(32) <= MAX_COLUMNS
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
            && op.weight_len() < limit
            && [(op.input, op.window.padding), (output, op.window.kernel)].iter().all(|&(shape, around)| {
                let [height, width] = [shape.height, shape.width].map(|side| side.saturating_add(2 * around));
                height.saturating_mul(width).saturating_mul(shape.channels) < limit
            })
    }

    /// `output = activation(windows · Wᵀ + bias)`, pooled in the same launch where the pooling is [`fuses`] to it.
    pub(super) fn implicit_forward(&mut self, op: &Conv2d, batch: usize, spans: &Conv2dForward) -> Result<()> {
        let shape = op.output()?;
        let fused = spans.pool.filter(|pool| fuses(&pool.op));
        let (bias, activation) = match (spans.pool, fused) {
            (Some(_), None) => (None, Activation::Identity),
            _ => (spans.bias, spans.activation),
        };
        let memory = self.memory()?;
        let (output, argmax, rows) = match fused {
            Some(pool) => {
                let pooled = pool.op.output()?;
                let argmax = pool.argmax.map(|span| memory.address(span.first(batch * pooled.len()))).transpose()?;
                // Eight windows of four pixels are 32 rows.
                let rows = (batch * pooled.pixels()).div_ceil(8) * 32;
                (memory.address(pool.output.first(batch * pooled.len()))?, argmax.unwrap_or(0), rows)
            }
            None => (memory.address(spans.output.first(batch * shape.len()))?, 0, batch * shape.pixels()),
        };
        let tensors = [
            memory.address(spans.input.first(batch * op.input.len()))?,
            memory.weight_address(spans.weight)?,
            bias.map_or(Ok(0), |bias| memory.address(bias))?,
            output,
            argmax,
        ];
        self.implicit(Job {
            kernel: "conv2d_forward",
            op,
            batch,
            size: [rows, op.out_channels, op.patch_len()],
            tensors: &tensors,
            contiguous: &[op.input.channels],
            more: &[Arg::U32(fused.is_some().into()), Arg::F32(activation.code())],
        })?;
        match spans.pool.filter(|_| fused.is_none()) {
            Some(pool) => self.pool_maxima(batch, (spans.activation, spans.bias), spans.output, pool),
            None => Ok(()),
        }
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

    /// `d_input = gradients over each pixel · W`, and its epilogue.
    pub(super) fn implicit_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        let (shape, pixels, channels) = (op.output()?, batch * op.input.pixels(), op.input.channels);
        let fused = spans.epilogue.filter(|_| sums_columns(pixels, channels));
        let memory = self.memory()?;
        let masked = fused.filter(|epilogue| epilogue.activation != Activation::Identity);
        let tensors = [
            memory.address(spans.d_output.first(batch * shape.len()))?,
            memory.weight_address(spans.weight)?,
            memory.address(spans.d_input.first(batch * op.input.len()))?,
            masked.map_or(Ok(0), |epilogue| memory.address(epilogue.output.first(batch * op.input.len())))?,
            fused
                .and_then(|epilogue| epilogue.d_bias)
                .map_or(Ok(0), |d_bias| memory.address(d_bias.first(channels)))?,
            self.scratch.column_sums.address(),
            self.scratch.column_counters(),
        ];
        self.implicit(Job {
            kernel: "conv2d_backward_input",
            op,
            batch,
            size: [pixels, channels, op.window.kernel * op.window.kernel * op.out_channels],
            tensors: &tensors,
            contiguous: &[op.input.channels, op.out_channels],
            more: &[Arg::F32(masked.map_or(1.0, |epilogue| epilogue.activation.code()))],
        })?;
        self.gradient_epilogue(pixels, channels, spans.d_input, spans.epilogue.filter(|_| fused.is_none()))
    }

    fn implicit(&self, job: Job<'_>) -> Result<()> {
        let Job { kernel, op, batch, size: [rows, cols, depth], tensors, contiguous, more } = job;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let lanes = self.vector();
        let vector = contiguous.iter().all(|length| length.is_multiple_of(lanes))
            && tensors[..2].iter().all(|address| address.is_multiple_of(16));
        let tiles = match kernel {
            _ if !vector => Tiles::Square,
            "conv2d_backward_input" if op.window.stride > 1 => Tiles::Square,
            "conv2d_backward_weight" => Tiles::NotSlim,
            _ => Tiles::All,
        };
        let fp32 = self.options.precision == "fp32";
        let cut = Cut::new([rows, cols, depth], tiles, lanes / 4, fp32);
        ensure!(cut.splits == 1 || cut.tiles * cut.splits <= MAX_PARTS, "{cut:?} has too many parts");
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
        let (name, shared) = (format!("{kernel}_{engine}"), cut.tile.shared_bytes());
        self.kernels.launch_shared(&self.stream, &name, grid, shared, &args)
    }
}

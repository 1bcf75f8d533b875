//! Implicit GEMM: convolutions and linear layers in one launch, without materialising the im2col columns.

use anyhow::{Result, ensure};

use super::Lowering;
use super::geometry::Geometry;
use super::params::params;
use super::split_k::{SplitK, Tiles};
use crate::cuda::program::{Address, Buffer, KernelLaunch, Launch, Params};
use crate::cuda::scratch::{MAX_COLUMN_SUMS, MAX_COLUMNS, MAX_PARTS};
use crate::ops::{
    Activation, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, MaxPool2d, PoolEpilogue, Precision,
};
use crate::shape::Window;

/// Whether the kernel of the preceding convolution can fuse this pooling.
pub(super) fn fuses(pool: &MaxPool2d) -> bool {
    pool.window == Window { kernel: 2, stride: 2, padding: 0 } && !pool.ceil_mode
}

/// Whether the column sums of a product's tiles fit the scratch. If they do not, a separate pass computes the epilogue.
fn sums_columns(rows: usize, cols: usize) -> bool {
    // Valid for every tile: all have at least 32 rows, and at least 32 columns if the product has more than 16.
    rows.div_ceil(32).saturating_mul(cols) <= MAX_COLUMN_SUMS && cols.div_ceil(32) <= MAX_COLUMNS
}

/// Whether the kernels' 32-bit indices suffice for this convolution.
pub(super) fn applies(op: &Conv2d, batch: usize) -> bool {
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

/// Partial results of split-K products.
const PARTIALS: Address = Address::at(Buffer::ProductPartials);

/// Counters of finished blocks: one per tile, then one per group of parts.
const COUNTERS: Address = Address::at(Buffer::ProductCounters);

impl Lowering<'_> {
    /// `output = activation(windows · Wᵀ + bias)`, followed in the same launch by a pooling that [`fuses`].
    pub(super) fn implicit_forward(&mut self, conv: &Conv2dForward) -> Result<()> {
        let Conv2dForward { ref op, activation, bias, .. } = *conv;
        let batch = conv.input.len / op.input.len();
        let (kernel, output, argmax, rows) = match conv.pool {
            // Each 32 rows hold eight pooling windows of four pixels.
            Some(PoolEpilogue { op, output, argmax }) => {
                ("conv2d_forward_pooled", output, argmax, (batch * op.output()?.pixels()).div_ceil(8) * 32)
            }
            None => ("conv2d_forward", conv.output, None, batch * op.output()?.pixels()),
        };
        let (input, weight) = (self.address(conv.input), self.weight(conv.weight));
        let params = params!(
            self.target, 112 bytes,
            [input, weight, bias, output, argmax, partials = PARTIALS, counters = COUNTERS],
            op: Geometry = Geometry::of_conv(op)?, batch: u32, slope: f32 = activation.code(),
        );
        let vector = self.reads_vectors(&[op.input.channels], [input, weight]);
        let (tiles, variant) = if vector { (Tiles::All, "") } else { (Tiles::Square, "_scalar") };
        self.implicit(kernel, variant, [rows, op.out_channels, op.patch_len()], tiles, params)
    }

    /// `d_weight = d_outputᵀ · windows`
    pub(super) fn implicit_backward_weight(&mut self, conv: &Conv2dBackwardWeight) -> Result<()> {
        let op = &conv.op;
        let batch = conv.input.len / op.input.len();
        let (input, d_output) = (self.address(conv.input), self.address(conv.d_output));
        let params = params!(
            self.target, 88 bytes,
            [input, d_output, d_weight = conv.d_weight, partials = PARTIALS, counters = COUNTERS],
            op: Geometry = Geometry::of_conv(op)?, batch: u32,
        );
        let vector = self.reads_vectors(&[op.input.channels, op.out_channels], [input, d_output]);
        let (tiles, variant) = if vector { (Tiles::NotSlim, "") } else { (Tiles::Square, "_scalar") };
        let size = [op.out_channels, op.patch_len(), batch * op.output()?.pixels()];
        self.implicit("conv2d_backward_weight", variant, size, tiles, params)
    }

    /// `d_input = windows of d_output · W`, and its epilogue.
    pub(super) fn implicit_backward_input(&mut self, conv: &Conv2dBackwardInput) -> Result<()> {
        let op = &conv.op;
        let (batch, channels) = (conv.d_input.len / op.input.len(), op.input.channels);
        let pixels = batch * op.input.pixels();
        let fused = conv.epilogue.filter(|_| sums_columns(pixels, channels));
        let masked = fused.filter(|epilogue| epilogue.activation != Activation::Identity);
        let (d_output, weight) = (self.address(conv.d_output), self.weight(conv.weight));
        let params = params!(
            self.target, 128 bytes,
            [
                d_output, weight, output = masked.map(|epilogue| epilogue.output), d_input = conv.d_input,
                d_bias = fused.and_then(|epilogue| epilogue.d_bias), parts = Buffer::ColumnSums,
                parts_counters = COUNTERS.plus(MAX_PARTS * 4), partials = PARTIALS, counters = COUNTERS,
            ],
            op: Geometry = Geometry::of_conv(op)?, batch: u32,
            slope: f32 = masked.map_or(1.0, |epilogue| epilogue.activation.code()),
        );
        let vector = self.reads_vectors(&[channels, op.out_channels], [d_output, weight]);
        let (tiles, variant) = match (vector, op.window.stride) {
            (true, 1) => (Tiles::All, ""),
            (true, _) => (Tiles::Square, "_strided"),
            (false, _) => (Tiles::Square, "_scalar"),
        };
        let size = [pixels, channels, op.window.kernel * op.window.kernel * op.out_channels];
        self.implicit("conv2d_backward_input", variant, size, tiles, params)?;
        self.gradient_epilogue(channels, conv.d_input, conv.epilogue.filter(|_| fused.is_none()))
    }

    /// Whether the operands, which are contiguous along `lengths`, can be read in vectors of 16 bytes.
    fn reads_vectors(&self, lengths: &[usize], operands: [Address; 2]) -> bool {
        let vector = self.vector();
        lengths.iter().all(|length| length.is_multiple_of(vector)) && operands.iter().all(|it| it.is_aligned(16))
    }

    /// Launches a `variant` of `kernel` with the tile that suits a `[rows, cols]` product over `depth`.
    fn implicit(
        &mut self,
        kernel: &str,
        variant: &str,
        [rows, cols, depth]: [usize; 3],
        tiles: Tiles,
        params: Params,
    ) -> Result<()> {
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let fp32 = self.target.precision == Precision::Fp32;
        let split = SplitK::new([rows, cols, depth], tiles, self.vector() / 4, fp32);
        ensure!(split.splits == 1 || split.tiles * split.splits <= MAX_PARTS, "{split:?} has too many parts");
        let (name, grid) = (format!("{kernel}_{}{variant}", split.tile.name()), [split.tiles, split.splits]);
        self.launches.push(Launch::Kernel(KernelLaunch::new(name, grid, split.tile.shared_bytes(), params)?));
        Ok(())
    }
}

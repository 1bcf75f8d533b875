//! Implicit GEMM: convolutions and linear layers in one launch, without materialising the im2col columns.

use anyhow::{Result, ensure};

use super::Lowering;
use super::geometry::Geometry;
use super::params::params;
use super::split_k::SplitK;
use super::tile::{self, Loads, Product, Tile};
use crate::cuda::program::{Address, Buffer, KernelLaunch, Launch, Params};
use crate::cuda::scratch::{MAX_COLUMN_SUMS, MAX_COLUMNS, MAX_PARTS};
use crate::ops::{
    Activation, Algorithm, Candidate, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, MaxPool2d,
    PoolEpilogue, Precision, Span,
};
use crate::shape::Window;

/// Whether the kernel of the preceding convolution can fuse this pooling.
pub(super) fn fuses(pool: &MaxPool2d) -> bool {
    pool.window == Window { kernel: 2, stride: 2, padding: 0 } && !pool.ceil_mode
}

/// Whether the column sums of a product's tiles fit the scratch. If they do not, a separate pass computes the epilogue.
fn sums_columns(tile: &Tile, rows: usize, cols: usize) -> bool {
    // No tile has fewer than 32 rows.
    rows.div_ceil(32).saturating_mul(cols) <= MAX_COLUMN_SUMS && cols.div_ceil(tile.cols.min(32)) <= MAX_COLUMNS
}

/// Whether the kernels' 32-bit indices suffice for this convolution.
fn applies(op: &Conv2d, batch: usize) -> bool {
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

/// A product and what its tile depends on.
pub(super) struct ImplicitProduct {
    product: Product,
    /// Rows, columns and inner dimension.
    size: [usize; 3],
    loads: Loads,
}

impl Lowering<'_> {
    /// The candidates for a product, starting with the one that is used unless another is faster; none if the
    /// convolution is too large.
    pub(super) fn implicit_candidates(&self, product: Result<ImplicitProduct>) -> Vec<Candidate> {
        let Ok(ImplicitProduct { product, size: [rows, cols, _], loads }) = product else { return Vec::new() };
        let tiles = tile::tiles(product, loads, [rows, cols], self.target);
        tiles.iter().map(|tile| Candidate { algorithm: Algorithm::Implicit, tile: Some(tile.name) }).collect()
    }

    /// `output = activation(windows · Wᵀ + bias)`, followed in the same launch by a pooling that [`fuses`].
    pub(super) fn implicit_forward(&mut self, conv: &Conv2dForward, candidate: Candidate) -> Result<()> {
        let (product, batch) = (self.forward_product(conv)?, conv.input.len / conv.op.input.len());
        let (output, argmax) = conv.pool.map_or((conv.output, None), |pool| (pool.output, pool.argmax));
        let params = params!(
            self.target, 112 bytes,
            [
                input = conv.input, weight = self.weight(conv.weight), bias = conv.bias, output, argmax,
                partials = PARTIALS, counters = COUNTERS,
            ],
            op: Geometry = Geometry::of_conv(&conv.op)?, batch: u32, slope: f32 = conv.activation.code(),
        );
        self.implicit(&product, Tile::of(candidate)?, params)
    }

    /// # Errors
    /// If the convolution is too large.
    pub(super) fn forward_product(&self, conv: &Conv2dForward) -> Result<ImplicitProduct> {
        let (op, batch) = (&conv.op, checked_batch(&conv.op, conv.input)?);
        let (product, rows) = match conv.pool {
            // Each 32 rows hold eight pooling windows of four pixels.
            Some(PoolEpilogue { op, .. }) => (Product::ForwardPooled, (batch * op.output()?.pixels()).div_ceil(8) * 32),
            None => (Product::Forward, batch * op.output()?.pixels()),
        };
        let loads = self.loads(&[op.input.channels], [self.address(conv.input), self.weight(conv.weight)]);
        Ok(ImplicitProduct { product, size: [rows, op.out_channels, op.patch_len()], loads })
    }

    /// `d_weight = d_outputᵀ · windows`
    pub(super) fn implicit_backward_weight(&mut self, conv: &Conv2dBackwardWeight, candidate: Candidate) -> Result<()> {
        let (product, batch) = (self.backward_weight_product(conv)?, conv.input.len / conv.op.input.len());
        let params = params!(
            self.target, 88 bytes,
            [
                input = conv.input, d_output = conv.d_output, d_weight = conv.d_weight, partials = PARTIALS,
                counters = COUNTERS,
            ],
            op: Geometry = Geometry::of_conv(&conv.op)?, batch: u32,
        );
        self.implicit(&product, Tile::of(candidate)?, params)
    }

    /// # Errors
    /// If the convolution is too large.
    pub(super) fn backward_weight_product(&self, conv: &Conv2dBackwardWeight) -> Result<ImplicitProduct> {
        let (op, batch) = (&conv.op, checked_batch(&conv.op, conv.input)?);
        let channels = [op.input.channels, op.out_channels];
        let loads = self.loads(&channels, [conv.input, conv.d_output].map(|span| self.address(span)));
        let size = [op.out_channels, op.patch_len(), batch * op.output()?.pixels()];
        Ok(ImplicitProduct { product: Product::BackwardWeight, size, loads })
    }

    /// `d_input = windows of d_output · W`, and its epilogue.
    pub(super) fn implicit_backward_input(&mut self, conv: &Conv2dBackwardInput, candidate: Candidate) -> Result<()> {
        let (product, tile) = (self.backward_input_product(conv)?, Tile::of(candidate)?);
        let [pixels, channels, _] = product.size;
        let fused = conv.epilogue.filter(|_| sums_columns(tile, pixels, channels));
        let masked = fused.filter(|epilogue| epilogue.activation != Activation::Identity);
        let params = params!(
            self.target, 128 bytes,
            [
                d_output = conv.d_output, weight = self.weight(conv.weight),
                output = masked.map(|epilogue| epilogue.output), d_input = conv.d_input,
                d_bias = fused.and_then(|epilogue| epilogue.d_bias), parts = Buffer::ColumnSums,
                parts_counters = COUNTERS.plus(MAX_PARTS * 4), partials = PARTIALS, counters = COUNTERS,
            ],
            op: Geometry = Geometry::of_conv(&conv.op)?, batch: u32 = conv.d_input.len / conv.op.input.len(),
            slope: f32 = masked.map_or(1.0, |epilogue| epilogue.activation.code()),
        );
        self.implicit(&product, tile, params)?;
        self.gradient_epilogue(channels, conv.d_input, conv.epilogue.filter(|_| fused.is_none()))
    }

    /// # Errors
    /// If the convolution is too large.
    pub(super) fn backward_input_product(&self, conv: &Conv2dBackwardInput) -> Result<ImplicitProduct> {
        let (op, batch) = (&conv.op, checked_batch(&conv.op, conv.d_input)?);
        let channels = [op.input.channels, op.out_channels];
        let loads = match self.loads(&channels, [self.address(conv.d_output), self.weight(conv.weight)]) {
            Loads::Vectors if op.window.stride > 1 => Loads::StridedVectors,
            loads => loads,
        };
        let depth = op.window.kernel * op.window.kernel * op.out_channels;
        let size = [batch * op.input.pixels(), op.input.channels, depth];
        Ok(ImplicitProduct { product: Product::BackwardInput, size, loads })
    }

    /// How to load operands that are contiguous along `lengths`.
    fn loads(&self, lengths: &[usize], operands: [Address; 2]) -> Loads {
        let vector = self.vector();
        let vectors =
            lengths.iter().all(|length| length.is_multiple_of(vector)) && operands.iter().all(|it| it.is_aligned(16));
        if vectors { Loads::Vectors } else { Loads::Elements }
    }

    /// Launches the kernel of `tile` for a product.
    fn implicit(&mut self, product: &ImplicitProduct, tile: &Tile, params: Params) -> Result<()> {
        let ImplicitProduct { product, size, .. } = *product;
        if size[0] == 0 || size[1] == 0 {
            return Ok(());
        }
        let fp32 = self.target.precision == Precision::Fp32;
        let split = SplitK::new(size, tile, self.vector() / 4, fp32);
        ensure!(split.splits == 1 || split.tiles * split.splits <= MAX_PARTS, "{split:?} has too many parts");
        let grid = [split.tiles, split.splits];
        let launch = KernelLaunch::new(tile.kernel(product), grid, tile.shared_bytes(), params)?;
        self.launches.push(Launch::Kernel(KernelLaunch { block: tile.threads, ..launch }));
        Ok(())
    }
}

/// The number of images.
///
/// # Errors
/// If the convolution is too large.
fn checked_batch(op: &Conv2d, images: Span) -> Result<usize> {
    let batch = images.len / op.input.len();
    ensure!(applies(op, batch), "the convolution is too large for implicit GEMM");
    Ok(batch)
}

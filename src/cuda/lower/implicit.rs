//! Implicit GEMM: convolutions and linear layers in one launch, without materialising the im2col columns.

use anyhow::{Context, Result, ensure};

use super::Lowering;
use super::geometry::Geometry;
use super::grid::ImplicitProduct;
use super::params::params;
use super::tile::{Loads, Product, TILES, Tile, usual};
use crate::cuda::program::{Address, Buffer, KernelLaunch, Launch, Params};
use crate::cuda::scratch::MAX_PARTS;
use crate::ops::{
    Activation, Algorithm, Candidate, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, MaxPool2d,
    NormEpilogue, PoolEpilogue, RunOn, Span, StatisticsEpilogue,
};
use crate::shape::Window;

/// Whether the kernel of the preceding convolution can fuse this pooling.
pub(super) fn fuses(pool: &MaxPool2d) -> bool {
    pool.window == Window { kernel: 2, stride: 2, padding: 0 } && !pool.ceil_mode
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

/// Counters of finished tiles for column sums.
const COLUMN_COUNTERS: Address = COUNTERS.plus(MAX_PARTS * 4);

/// Numbers that a tile's part of column sums has for each column: `struct Moments` in `kernels/column_sums.cuh`, and the
/// two sums of an input gradient.
const MOMENTS: usize = 3;
const GRADIENT_SUMS: usize = 2;

impl Lowering<'_> {
    /// The candidates for a product, starting with the one that is used unless another is faster; none if the
    /// convolution is too large.
    pub(super) fn implicit_candidates(&self, product: Result<ImplicitProduct>) -> Vec<Candidate> {
        let Ok(product) = product else { return Vec::new() };
        let applies = |tile: &&Tile| product.grid(tile, self.target).is_some();
        let mut tiles: Vec<&Tile> = TILES.iter().filter(applies).collect();
        let [rows, cols, _] = product.size;
        let usual = usual(product.product, product.loads, [rows, cols], self.target);
        tiles.sort_by_key(|tile| tile.name != usual);
        tiles.iter().map(|tile| Candidate { algorithm: Algorithm::Implicit, tile: Some(tile.name) }).collect()
    }

    /// `output = activation(windows · Wᵀ + bias)`, followed in the same launch by a pooling that [`fuses`].
    pub(super) fn implicit_forward(&mut self, conv: &Conv2dForward, candidate: Candidate) -> Result<()> {
        let (product, batch) = (self.forward_product(conv)?, conv.input.len / conv.op.input.len());
        let (output, argmax) = conv.pool.map_or((conv.output, None), |pool| (pool.output, pool.argmax));
        let tile = Tile::of(candidate)?;
        let is_fused = |_: &StatisticsEpilogue| {
            tile.has_norm_epilogues()
                && conv.activation == Activation::Identity
                && self.sums_columns(&product, tile, MOMENTS)
        };
        let fused = conv.statistics.filter(is_fused);
        let (momentum, epsilon) = fused.map_or((0.0, 0.0), |it| (it.op.momentum, it.op.epsilon));
        let params = params!(
            self.target, 152 bytes,
            [
                input = conv.input, weight = self.weight(conv.weight), bias = conv.bias, output, argmax,
                partials = PARTIALS, counters = COUNTERS, running = fused.map(|it| it.running),
                saved = fused.map(|it| it.saved), parts = Buffer::ColumnSums, parts_counters = COLUMN_COUNTERS,
            ],
            op: Geometry = Geometry::of_conv(&conv.op)?, batch: u32, slope: f32 = conv.activation.code(),
            pooled: u32 = u32::from(conv.pool.is_some()), momentum: f32, epsilon: f32,
        );
        if let Some(StatisticsEpilogue { op, .. }) = fused {
            op.training_rows(batch)?;
        }
        self.implicit(&product, tile, params)?;
        let separate = conv.statistics.filter(|_| fused.is_none());
        separate.map_or(Ok(()), |statistics| statistics.of_input(conv.output).run_on(self))
    }

    /// Whether the kernels of a tile sum columns, with so many numbers for each column and tile.
    fn sums_columns(&self, product: &ImplicitProduct, tile: &Tile, numbers: usize) -> bool {
        product.grid(tile, self.target).is_some_and(|grid| grid.sums_columns(numbers * product.size[1]))
    }

    /// # Errors
    /// If the convolution is too large.
    pub(super) fn forward_product(&self, conv: &Conv2dForward) -> Result<ImplicitProduct> {
        let (op, batch) = (&conv.op, checked_batch(&conv.op, conv.input)?);
        let (product, rows) = match conv.pool {
            Some(PoolEpilogue { op, .. }) => (Product::ForwardPooled, batch * op.output()?.pixels()),
            None => (Product::Forward, batch * op.output()?.pixels()),
        };
        let loads = self.loads(&[op.input.channels], [self.address(conv.input), self.weight(conv.weight)]);
        let size = [rows, op.out_channels, op.patch_len()];
        Ok(ImplicitProduct { product, op: *op, batch, size, loads, vector_gradients: false })
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
        let vector_gradients = self.loads(&channels[1..], [self.address(conv.d_output); 2]) == Loads::Vectors;
        Ok(ImplicitProduct { product: Product::BackwardWeight, op: *op, batch, size, loads, vector_gradients })
    }

    /// `d_input = windows of d_output · W`, and its epilogue.
    pub(super) fn implicit_backward_input(&mut self, conv: &Conv2dBackwardInput, candidate: Candidate) -> Result<()> {
        let (product, tile) = (self.backward_input_product(conv)?, Tile::of(candidate)?);
        let norm_fits = |norm: NormEpilogue| norm.output.is_some() || norm.activation != Activation::Tanh;
        let fits = tile.has_norm_epilogues() && conv.norm.is_none_or(norm_fits);
        let is_plain = conv.added.is_none() && conv.norm.is_none();
        if !(fits || is_plain) || !self.sums_columns(&product, tile, GRADIENT_SUMS) {
            let plain = Conv2dBackwardInput { added: None, epilogue: None, norm: None, ..*conv };
            self.implicit(&product, tile, self.backward_input_params(&plain, 0)?)?;
            return self.input_gradient_epilogues(conv);
        }
        let staged = product.grid(tile, self.target).map_or(0, |grid| grid.free_tiles(tile, self.target));
        self.implicit(&product, tile, self.backward_input_params(conv, staged)?)
    }

    /// `staged` is the number of tensors whose parts may be copied to shared memory in the epilogue.
    fn backward_input_params(&self, conv: &Conv2dBackwardInput, staged: usize) -> Result<Params> {
        let Conv2dBackwardInput { ref op, d_output, weight, d_input, added, epilogue, norm } = *conv;
        let masked = epilogue.filter(|epilogue| epilogue.activation != Activation::Identity);
        let output = masked.map(|epilogue| epilogue.output).or(norm.and_then(|norm| norm.output));
        let activation = masked.map(|it| it.activation).or(norm.map(|it| it.activation)).unwrap_or_default();
        let d_bias = epilogue.and_then(|it| it.d_bias).or(norm.map(|it| it.d_bias));
        Ok(params!(
            self.target, 176 bytes,
            [
                d_output, weight = self.weight(weight), output, added, norm_input = norm.map(|it| it.input),
                norm_weight = norm.map(|it| it.weight), norm_bias = norm.map(|it| it.bias),
                saved = norm.map(|it| it.saved), d_input, d_bias, d_weight = norm.map(|it| it.d_weight),
                parts = Buffer::ColumnSums, parts_counters = COLUMN_COUNTERS, partials = PARTIALS, counters = COUNTERS,
            ],
            op: Geometry = Geometry::of_conv(op)?, batch: u32 = d_input.len / op.input.len(),
            slope: f32 = activation.code(), staged: u32,
        ))
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
        Ok(ImplicitProduct { product: Product::BackwardInput, op: *op, batch, size, loads, vector_gradients: false })
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
        if product.size[0] == 0 || product.size[1] == 0 {
            return Ok(());
        }
        let grid = product.grid(tile, self.target).with_context(|| format!("{} does not compute this", tile.name))?;
        let launch = KernelLaunch::new(tile.kernel(product.product), grid.sides, grid.shared, params)?;
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

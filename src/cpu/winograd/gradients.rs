//! The weight gradient of Winograd convolutions, and the weight transforms and the 36 products per tile that the forward
//! pass uses too. F(4×4, 3×3) needs a quarter of the multiplications of a direct convolution.

use rayon::prelude::*;

use super::maps::Clip;
use super::tiling::{Part, Winograd, row_len};
use super::transform::{InverseTransform, PLANES, Tiles, Transform};
use crate::cpu::gemm::kernel::{Gemm, LeftStrides, Start};
use crate::cpu::runtime::scratch::{self, Buffer, PANEL, grown, weight_groups};
use crate::cpu::{Instructions, Real};

/// Minimum number of pieces of work, if the batch is large enough. Every piece reads all weights, so weights that
/// exceed the caches get fewer pieces.
const MIN_PIECES: usize = 16;
const MIN_PIECES_LARGE_WEIGHTS: usize = 4;
pub(super) const LARGE_WEIGHT_LEN: usize = 1 << 21;

/// Tiles per piece: enough rows for efficient products, and few enough to stay in L2.
const MIN_TILES: usize = 8;
const TARGET_TILES: usize = 32;
const MAX_TILES: usize = 64;

/// Input channels per product, so that their weights stay in L1.
const DEPTH: usize = 128;

/// Panels of output channels that share one transformed input in the weight gradient.
const WEIGHT_PANELS: usize = 4;

impl Winograd {
    /// Length of the transformed weights.
    pub fn weight_len(&self) -> usize {
        PLANES * self.from.channels * self.to.channels
    }

    /// Transforms all weights: `[panel of output channels][plane][input channel][PANEL]`.
    pub fn transform_weights<R: Real>(&self, set: Instructions, weight: &[R], target: &mut [f32]) {
        let panels = target.par_chunks_mut(PLANES * self.from.channels * PANEL).enumerate();
        panels.for_each(|(panel, target)| self.transform_panel(set, weight, panel, target));
    }

    /// Transforms the weights of one panel.
    pub fn transform_panel<R: Real>(&self, set: Instructions, weight: &[R], panel: usize, target: &mut [f32]) {
        let (channels, first) = (self.from.channels, panel * PANEL);
        let width = target.len() / (PLANES * channels);
        if self.flipped {
            let pixel = self.to.channels;
            let tiles = Tiles {
                count: channels,
                channels: width,
                line: 3 * pixel,
                pixel,
                tile: 9 * pixel,
                plane: channels * width,
                row: width,
                clip: Clip::NONE,
            };
            return tiles.transform(set, Transform::FlippedWeight, weight, first as isize, target);
        }
        let patch = 9 * channels;
        let weight = &weight[first * patch..][..width * patch];
        scratch::with(Buffer::Packed, weight.len(), |transposed| {
            scratch::transpose(set, weight, patch, transposed, width);
            weight_tile(channels * width).transform(set, Transform::Weight, &*transposed, 0, target);
        });
    }

    /// Samples per piece, and lines of tiles per piece if a piece is a part of one sample.
    pub fn piece(&self, batch: usize) -> (usize, usize) {
        let is_large = self.weight_len() > LARGE_WEIGHT_LEN;
        let min_pieces = if is_large { MIN_PIECES_LARGE_WEIGHTS } else { MIN_PIECES };
        let samples = TARGET_TILES.div_ceil(self.lines * self.cols).min(batch / min_pieces).max(1);
        if samples > 1 {
            return (samples, self.lines);
        }
        let lines = (self.lines * batch).div_ceil(MIN_PIECES).max(MIN_TILES.div_ceil(self.cols));
        (1, lines.min(MAX_TILES / self.cols).clamp(1, self.lines))
    }

    /// The weight gradient of a batch; `partials` is a buffer for partial sums.
    pub fn backward_weight<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        d_y: &[R],
        d_weight: &mut [f32],
        partials: &mut Vec<f32>,
    ) {
        let (channels, patch) = (self.from.channels, 9 * self.from.channels);
        let lines = d_y.len() / self.to.len() * self.lines;
        let panels = self.to.channels.div_ceil(PANEL);
        let panels_per_piece = panels.min(WEIGHT_PANELS);
        let pieces = panels.div_ceil(panels_per_piece);
        // Each group sums the products of its tiles, [panel][plane][ic][PANEL].
        let panel_len = PLANES * channels * PANEL;
        let lines_per_group = lines.div_ceil(weight_groups(panels * panel_len, pieces));
        let groups = lines.div_ceil(lines_per_group);
        let partials = grown(partials, groups * pieces * panels_per_piece * panel_len);
        partials.par_chunks_mut(panels_per_piece * panel_len).enumerate().for_each(|(index, partial)| {
            let (group, piece) = (index / pieces, index % pieces);
            let group = group * lines_per_group..((group + 1) * lines_per_group).min(lines);
            self.sum_weights(set, x, d_y, group, piece * panels_per_piece * PANEL, partial);
        });
        let (first, others) = partials.split_at_mut(pieces * panels_per_piece * panel_len);
        let work = first.par_chunks_mut(panel_len).zip(d_weight.par_chunks_mut(patch * PANEL)).enumerate();
        work.for_each(|(panel, (sum, d_weight))| {
            let width = d_weight.len() / patch;
            let sum = &mut sum[..PLANES * channels * width];
            scratch::add_groups(set, others, pieces * panels_per_piece * panel_len, panel * panel_len, sum);
            self.write_weight_gradient(set, sum, d_weight);
        });
    }

    /// Writes the gradient of a panel's weights from the sums of products, `[plane][input channel][PANEL]`.
    pub(super) fn write_weight_gradient(&self, set: Instructions, sums: &[f32], d_weight: &mut [f32]) {
        let patch = 9 * self.from.channels;
        let width = d_weight.len() / patch;
        scratch::with(Buffer::Packed, d_weight.len(), |transposed| {
            let tile = weight_tile(self.from.channels * width);
            tile.inverse_transform(set, InverseTransform::WeightGradient, sums, transposed);
            scratch::transpose(set, transposed, width, d_weight, patch);
        });
    }

    /// Sums the products of transformed tiles over the lines of `group`, for the output channels from `first_channel`.
    fn sum_weights<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        d_y: &[R],
        group: std::ops::Range<usize>,
        first_channel: usize,
        partial: &mut [f32],
    ) {
        let mut start = Start::Zero;
        for (sample, part) in self.parts(group, MAX_TILES) {
            let (x, d_y) = (&x[sample * self.from.len()..], &d_y[sample * self.to.len()..]);
            self.with_input(set, part, x, |tiles| {
                let channels = (first_channel..self.to.channels).step_by(PANEL);
                for (sums, begin) in partial.chunks_mut(PLANES * self.from.channels * PANEL).zip(channels) {
                    let outputs = begin..(begin + PANEL).min(self.to.channels);
                    self.sum_products(set, part, tiles, d_y, outputs, sums, start);
                }
            });
            start = Start::Accumulate;
        }
    }

    /// Starts or continues sums of the products of a part's transformed input and output gradient, of which `outputs` are
    /// the channels: `[plane][input channel][output channel]`. `d_y` starts at the part's first sample.
    #[expect(clippy::too_many_arguments, reason = "the two operands, where they are, and the result")]
    pub(super) fn sum_products<R: Real>(
        &self,
        set: Instructions,
        part: Part,
        tiles: &[f32],
        d_y: &[R],
        outputs: std::ops::Range<usize>,
        sums: &mut [f32],
        start: Start,
    ) {
        let (channels, width) = (self.from.channels, outputs.len());
        self.with_output_gradient(set, part, d_y, outputs, |d_tiles| {
            let product = Gemm {
                lines: 1,
                rows: channels,
                cols: width,
                outer: 1,
                inner: self.tiles(part),
                a: LeftStrides { row: 1, inner: row_len(channels), ..LeftStrides::default() },
                b_inner: width,
                c_row: width,
                ..Gemm::default()
            };
            for (plane, sums) in sums.chunks_mut(channels * width).take(PLANES).enumerate() {
                let tiles = &tiles[plane * self.plane_len(part, channels)..];
                let d_tiles = &d_tiles[plane * self.plane_len(part, width)..];
                product.run(set, tiles, d_tiles, sums, start, false);
            }
        });
    }

    /// Calls `body` with the products `[plane][tile][width]` of a part's tiles and one panel of weights, and the
    /// panel's width.
    pub fn with_products(
        &self,
        set: Instructions,
        part: Part,
        tiles: &[f32],
        weights: &[f32],
        depth: usize,
        body: impl FnOnce(&[f32], usize),
    ) {
        let width = weights.len() / (PLANES * depth);
        let product = Gemm {
            lines: 1,
            rows: self.tiles(part),
            cols: width,
            outer: 1,
            a: LeftStrides { row: row_len(depth), inner: 1, ..LeftStrides::default() },
            b_inner: width,
            c_row: width,
            ..Gemm::default()
        };
        let (from, to) = (self.plane_len(part, depth), self.plane_len(part, width));
        scratch::with(Buffer::Products, PLANES * to, |products| {
            for (plane, weights) in weights.chunks_exact(depth * width).enumerate() {
                let products = &mut products[plane * to..];
                for (block, weights) in weights.chunks(DEPTH * width).enumerate() {
                    let product = Gemm { inner: weights.len() / width, ..product };
                    let start = if block == 0 { Start::Zero } else { Start::Accumulate };
                    product.run(set, &tiles[plane * from + block * DEPTH..], weights, products, start, false);
                }
            }
            body(products, width);
        });
    }
}

/// All weights of a panel as a single tile with `len` channels: `[3][3][len]`, transformed to `[plane][len]`.
fn weight_tile(len: usize) -> Tiles {
    Tiles { count: 1, channels: len, line: 3 * len, pixel: len, tile: 0, plane: len, row: 0, clip: Clip::NONE }
}

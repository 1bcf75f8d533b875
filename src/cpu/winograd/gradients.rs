//! The weight gradient of Winograd convolutions, and the weight transforms and the 36 products per tile that the forward
//! pass uses too. F(4×4, 3×3) needs a quarter of the multiplications of a direct convolution.

use rayon::prelude::*;

use super::maps::Clip;
use super::tiling::{Part, Winograd};
use super::transform::{InverseTransform, PLANES, Tiles, Transform};
use crate::cpu::Instructions;
use crate::cpu::gemm::kernel::{Gemm, LeftStrides, Start};
use crate::cpu::runtime::scratch::{self, Buffer, PANEL, grown, weight_groups};

/// Minimum number of pieces of work, if the batch is large enough. Every piece reads all weights, so weights that
/// exceed the caches get fewer pieces.
const MIN_PIECES: usize = 16;
const MIN_PIECES_LARGE_WEIGHTS: usize = 4;
const LARGE_WEIGHT_LEN: usize = 1 << 21;

/// Tiles per piece: enough rows for efficient products, and few enough to stay in L2.
const MIN_TILES: usize = 8;
const TARGET_TILES: usize = 32;
const MAX_TILES: usize = 64;

/// Panels of output channels that share one transformed input in the weight gradient.
const WEIGHT_PANELS: usize = 4;

impl Winograd {
    /// Length of the transformed weights.
    pub fn weight_len(&self) -> usize {
        PLANES * self.from.channels * self.to.channels
    }

    /// Transforms the weights for the forward pass: `[panel of oc][plane][ic][PANEL]`.
    pub fn transform_weights(&self, set: Instructions, weight: &[f32], target: &mut [f32]) {
        let (patch, channels) = (9 * self.from.channels, self.from.channels);
        let panels = target.par_chunks_mut(PLANES * channels * PANEL).zip(weight.par_chunks(patch * PANEL));
        panels.for_each(|(target, weight)| {
            let width = weight.len() / patch;
            let len = channels * width;
            scratch::with(Buffer::Packed, weight.len(), |transposed| {
                set.run(|| scratch::transpose(weight, patch, transposed, width));
                weight_tile(len).transform(set, Transform::Weight, transposed, 0, target);
            });
        });
    }

    /// Transforms the weights for an input gradient, which is a convolution from the output channels of the weights to
    /// their input channels: `[panel of ic][plane][oc][PANEL]`.
    pub fn transform_flipped_weights(&self, set: Instructions, weight: &[f32], target: &mut [f32]) {
        let (channels, out_channels) = (self.to.channels, self.from.channels);
        target.par_chunks_mut(PLANES * out_channels * PANEL).enumerate().for_each(|(panel, target)| {
            let width = target.len() / (PLANES * out_channels);
            let tiles = Tiles {
                count: out_channels,
                channels: width,
                line: 3 * channels,
                pixel: channels,
                tile: 9 * channels,
                plane: out_channels * width,
                row: width,
                clip: Clip::NONE,
            };
            tiles.transform(set, Transform::FlippedWeight, weight, (panel * PANEL) as isize, target);
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
    pub fn backward_weight(
        &self,
        set: Instructions,
        x: &[f32],
        d_y: &[f32],
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
            set.run(|| {
                for group in others.chunks_exact(pieces * panels_per_piece * panel_len) {
                    sum.iter_mut().zip(&group[panel * panel_len..]).for_each(|(sum, term)| *sum += term);
                }
            });
            scratch::with(Buffer::Packed, d_weight.len(), |transposed| {
                weight_tile(channels * width).inverse_transform(set, InverseTransform::WeightGradient, sum, transposed);
                set.run(|| scratch::transpose(transposed, width, d_weight, patch));
            });
        });
    }

    /// Sums the products of transformed tiles over the lines of `group`, for the output channels from `first_channel`.
    fn sum_weights(
        &self,
        set: Instructions,
        x: &[f32],
        d_y: &[f32],
        group: std::ops::Range<usize>,
        first_channel: usize,
        partial: &mut [f32],
    ) {
        let (input, output) = (self.from, self.to);
        let (mut at, mut start) = (group.start, Start::Zero);
        while at < group.end {
            let (sample, first_line) = (at / self.lines, at % self.lines);
            let lines = (MAX_TILES / self.cols).max(1).min(group.end - at);
            // Either several whole samples, or some lines of one sample.
            let part = match lines / self.lines {
                samples if samples > 0 && first_line == 0 => Part { samples, first_line, lines: self.lines },
                _ => Part { samples: 1, first_line, lines: lines.min(self.lines - first_line) },
            };
            let (x, d_y) = (&x[sample * input.len()..], &d_y[sample * output.len()..]);
            self.with_input(set, part, x, |tiles| {
                for (index, partial) in partial.chunks_mut(PLANES * input.channels * PANEL).enumerate() {
                    let begin = first_channel + index * PANEL;
                    let end = (begin + PANEL).min(output.channels);
                    if begin >= end {
                        break;
                    }
                    self.with_output_gradient(set, part, d_y, begin..end, |d_tiles| {
                        let product = Gemm {
                            lines: 1,
                            rows: input.channels,
                            cols: end - begin,
                            outer: 1,
                            inner: self.tiles(part),
                            a: LeftStrides { row: 1, inner: input.channels, ..LeftStrides::default() },
                            b_inner: end - begin,
                            c_row: end - begin,
                            ..Gemm::default()
                        };
                        for (plane, sums) in partial.chunks_mut(product.rows * product.cols).take(PLANES).enumerate() {
                            let tiles = &tiles[plane * self.plane_len(part, product.rows)..];
                            let d_tiles = &d_tiles[plane * self.plane_len(part, product.cols)..];
                            product.run(set, tiles, d_tiles, sums, start, false);
                        }
                    });
                }
            });
            (at, start) = (at + part.samples * part.lines, Start::Accumulate);
        }
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
            inner: depth,
            a: LeftStrides { row: depth, inner: 1, ..LeftStrides::default() },
            b_inner: width,
            c_row: width,
            ..Gemm::default()
        };
        let (from, to) = (self.plane_len(part, depth), self.plane_len(part, width));
        scratch::with(Buffer::Products, PLANES * to, |products| {
            for (plane, weights) in weights.chunks_exact(depth * width).enumerate() {
                product.run(set, &tiles[plane * from..], weights, &mut products[plane * to..], Start::Zero, false);
            }
            body(products, width);
        });
    }
}

/// All weights of a panel as a single tile with `len` channels: `[3][3][len]`, transformed to `[plane][len]`.
fn weight_tile(len: usize) -> Tiles {
    Tiles { count: 1, channels: len, line: 3 * len, pixel: len, tile: 0, plane: len, row: 0, clip: Clip::NONE }
}

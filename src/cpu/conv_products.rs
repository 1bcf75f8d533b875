//! The matrix products of a direct convolution: forward and for both gradients, of floats or of pairs of bf16.

use half::bf16;
use rayon::prelude::*;

use super::gemm::kernel::{Gemm, LeftStrides, Start};
use super::gemm::pairs;
use super::geometry::Geometry;
use super::runtime::scratch::{self, Buffer, PANEL};
use super::winograd::forward::Epilogue;
use super::{Instructions, Real, finish};

/// Minimum number of pieces of a forward pass, so that a small batch keeps all threads busy.
const MIN_PIECES: usize = 16;

/// Output pixels per piece of the weight gradient, so that their inputs and gradients nearly fit in L1.
const WEIGHT_PIXELS: usize = 128;

impl Geometry {
    /// Packs the weights as the forward pass reads them: `Wᵀ` in panels of columns, `[panel][k·k·ic][PANEL]`, or for groups by
    /// [`Geometry::grouped_weights`].
    pub fn pack_weights<E: Real>(&self, set: Instructions, weight: &[E], panels: &mut [f32]) {
        if !self.op.is_plain() {
            return self.grouped_weights(weight, panels);
        }
        let patch = self.op.patch_len();
        panels.par_chunks_mut(patch * PANEL).zip(weight.par_chunks(patch * PANEL)).for_each(|(panel, weight)| {
            let width = weight.len() / patch;
            scratch::transpose(set, weight, patch, panel, width);
        });
    }

    /// `y = activation(convolution(x) + bias + residual)` with weights by [`Geometry::pack_weights`]. The input consists of pairs
    /// if [`Geometry::pairs`] is set.
    pub fn convolve<E: Real, R: Real>(
        &self,
        set: Instructions,
        x: &[E],
        weights: &[f32],
        epilogue: Epilogue<R>,
        y: &mut [R],
    ) {
        let (op, output, patch) = (&self.op, self.output, self.op.patch_len());
        let (bias, relu) = (epilogue.bias, epilogue.fuses_relu());
        let batch = x.len() / op.input.len();
        let lines_per_piece = output.height.div_ceil(MIN_PIECES.div_ceil(batch));
        let piece_len = lines_per_piece * output.width * output.channels;
        let pieces = y.par_chunks_mut(output.len()).enumerate().flat_map(|(sample, y)| {
            y.par_chunks_mut(piece_len).enumerate().map(move |(piece, y)| (sample, piece * lines_per_piece, y))
        });
        pieces.for_each(|(sample, first, y)| {
            let lines = y.len() / (output.width * output.channels);
            scratch::with_output(set, y, |y| {
                self.with_padded(set, &x[sample * op.input.len()..][..op.input.len()], first, lines, |x| {
                    if !op.is_plain() {
                        return self.grouped_forward(set, x, weights, bias, y, relu);
                    }
                    for (index, panel) in weights.chunks(patch * PANEL).enumerate() {
                        let start = if bias.is_empty() { Start::Zero } else { Start::Bias(&bias[index * PANEL..]) };
                        let product = self.forward(lines, panel.len() / patch);
                        product.run(set, x, panel, &mut y[index * PANEL..], start, relu);
                    }
                });
                let at = sample * output.len() + first * output.width * output.channels;
                finish(set, epilogue.activation, epilogue.residual.map(|all| &all[at..]), y);
            });
        });
    }

    /// `y [lines][ow][..cols] = x · Wᵀ`, for one panel of `Wᵀ`.
    fn forward(&self, lines: usize, cols: usize) -> Gemm {
        let (line, row) = self.strides();
        Gemm {
            lines,
            rows: self.output.width,
            cols,
            outer: self.op.window.kernel,
            inner: self.row_len,
            a: LeftStrides { line, row, outer: self.line, inner: 1 },
            b_outer: self.row_len * cols,
            b_inner: cols,
            c_line: self.output.width * self.output.channels,
            c_row: self.output.channels,
            pairs: self.pairs,
        }
    }

    /// `partial [k·k·ic][PANEL] = xᵀ · d_y` over the output lines of `group`, for one panel of output channels.
    pub fn sum_weights<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        d_y: &[R],
        group: std::ops::Range<usize>,
        panel: usize,
        partial: &mut [f32],
    ) {
        let (output, input_len) = (self.output, self.op.input.len());
        let cols = (output.channels - panel * PANEL).min(PANEL);
        let line_len = output.width * output.channels;
        let (outer, inner) = self.strides();
        let (mut at, mut start) = (group.start, Start::Zero);
        while at < group.end {
            let (sample, first) = (at / output.height, at % output.height);
            let lines = (WEIGHT_PIXELS / output.width).max(1).min(output.height - first).min(group.end - at);
            let product = Gemm {
                lines: self.op.window.kernel,
                rows: self.row_len,
                cols,
                outer: lines,
                inner: output.width,
                a: LeftStrides { line: self.line, row: 1, outer, inner },
                b_outer: output.width * cols,
                b_inner: cols,
                c_line: self.row_len * cols,
                c_row: cols,
                pairs: false,
            };
            let d_y = &d_y[at * line_len + panel * PANEL..];
            self.with_padded(set, &x[sample * input_len..][..input_len], first, lines, |x| {
                let pixels = lines * output.width;
                if let Some(d_y) = R::as_bf16(d_y).filter(|_| set.multiplies_pairs()) {
                    return self.sum_weights_by_pairs(set, x, (d_y, cols), lines, partial, start);
                }
                if cols == output.channels {
                    return scratch::with_floats(set, &d_y[..pixels * cols], Buffer::Converted, |d_y| {
                        product.run(set, x, d_y, partial, start, false);
                    });
                }
                scratch::with(Buffer::Packed, pixels * cols, |packed| {
                    scratch::pack_panels(set, d_y, output.channels, (pixels, cols), packed);
                    product.run(set, x, packed, partial, start, false);
                });
            });
            (at, start) = (at + lines, Start::Accumulate);
        }
    }

    /// The contribution of some output lines to [`Geometry::sum_weights`], with the products of pairs of neighbouring output
    /// pixels. `x` holds the padded input lines; `d_y` starts at the first of the panel's `cols` channels.
    fn sum_weights_by_pairs(
        &self,
        set: Instructions,
        x: &[f32],
        (d_y, cols): (&[bf16], usize),
        lines: usize,
        partial: &mut [f32],
        start: Start,
    ) {
        let Self { output, row_len, .. } = *self;
        let (input_lines, pairs) =
            ((lines - 1) * self.op.window.stride + self.op.window.kernel, output.width.div_ceil(2));
        let step = self.strides().1;
        // Each window's row of the left pixel and of the right one, [input line][pair][k·ic]; none is right of the last pixel
        // of an odd number.
        scratch::with(Buffer::Converted, input_lines * pairs * row_len, |windows| {
            for (line, windows) in x.chunks(self.line).zip(windows.chunks_exact_mut(pairs * row_len)) {
                pairs::pack_windows(set, line, step, (output.width, row_len), windows);
            }
            scratch::with(Buffer::Packed, lines * pairs * cols, |gradients| {
                let line_len = output.width * output.channels;
                for (line, gradients) in gradients.chunks_exact_mut(pairs * cols).enumerate() {
                    pairs::pack_panels(set, &d_y[line * line_len..], output.channels, (output.width, cols), gradients);
                }
                let product = Gemm {
                    lines: self.op.window.kernel,
                    rows: row_len,
                    cols,
                    outer: lines,
                    inner: pairs,
                    a: LeftStrides {
                        line: pairs * row_len,
                        row: 1,
                        outer: self.op.window.stride * pairs * row_len,
                        inner: row_len,
                    },
                    b_outer: pairs * cols,
                    b_inner: cols,
                    c_line: row_len * cols,
                    c_row: cols,
                    pairs: true,
                };
                product.run(set, windows, gradients, partial, start, false);
            });
        });
    }

    /// `d_x = col2im(d_y · W)` of one sample. The output channels are pairs if `packed` has half as many.
    pub fn scatter<R: Real>(&self, set: Instructions, d_y: &[f32], packed: &[f32], d_x: &mut [R]) {
        let (input, padding) = (self.op.input, self.op.window.padding);
        if padding == 0 {
            return scratch::with_output(set, d_x, |d_x| self.scatter_padded(set, d_y, packed, d_x));
        }
        scratch::with(Buffer::Padded, (input.height + 2 * padding) * self.line, |padded| {
            self.scatter_padded(set, d_y, packed, padded);
            self.without_padding(set, padded, d_x);
        });
    }

    /// The same in padded coordinates: every output pixel adds to the input pixels of its window, one kernel row at a time.
    fn scatter_padded(&self, set: Instructions, d_y: &[f32], packed: &[f32], d_x: &mut [f32]) {
        let (output, (c_line, c_row)) = (self.output, self.strides());
        let depth = packed.len() / (self.op.window.kernel * self.row_len);
        d_x.fill(0.0);
        for (ky, panels) in packed.chunks_exact(depth * self.row_len).enumerate() {
            for (index, panel) in panels.chunks(depth * PANEL).enumerate() {
                let cols = panel.len() / depth;
                let product = Gemm {
                    lines: output.height,
                    rows: output.width,
                    cols,
                    outer: 1,
                    inner: depth,
                    a: LeftStrides { line: output.width * depth, row: depth, outer: 0, inner: 1 },
                    b_outer: 0,
                    b_inner: cols,
                    c_line,
                    c_row,
                    pairs: depth < output.channels,
                };
                product.run(set, d_y, panel, &mut d_x[ky * self.line + index * PANEL..], Start::Accumulate, false);
            }
        }
    }
}

//! Convolution on the CPU: im2col of a piece that fits the cache, then a matrix product.

use std::cell::RefCell;

use anyhow::Result;
use rayon::prelude::*;

use super::Cpu;
use super::gemm::{Matrix, Write, gemm};
use crate::ops::{Activation, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, ConvOps};
use crate::shape::Shape;

/// Rows of columns that one product works on: enough for the product to be fast, few enough to stay in L2.
const TARGET_ROWS: usize = 512;

/// Pieces that the weight gradient is summed in before their fixed-order reduction.
const WEIGHT_GROUPS: usize = 8;

/// The partial weight gradients, kept between steps so that none allocates.
#[derive(Default)]
pub(super) struct Scratch {
    partial_weights: Vec<f32>,
}

thread_local! {
    /// This thread's columns.
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with `len` floats of this thread's column buffer, whose contents are left over from earlier use.
fn with_columns<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    COLUMNS.with_borrow_mut(|columns| {
        if columns.len() < len {
            columns.resize(len, 0.0);
        }
        body(&mut columns[..len])
    })
}

/// Output lines (one `y` of one sample) that make a piece; a function of the problem alone.
fn lines_per_piece(lines: usize, line_width: usize, least_pieces: usize) -> usize {
    (TARGET_ROWS / line_width.max(1)).min(lines.div_ceil(least_pieces)).max(1)
}

impl ConvOps for Cpu {
    fn conv2d_forward(&mut self, op: &Conv2d, batch: usize, spans: Conv2dForward) -> Result<()> {
        let output = op.output()?;
        let lines = batch * output.height;
        let per_piece = lines_per_piece(lines, output.width, 16);
        let line_len = output.width * output.channels;
        let bias_span = spans.bias.unwrap_or(spans.weight.first(0));
        let [x, weight, bias, y] = self.memory.floats([
            spans.input.first(batch * op.input.len()),
            spans.weight,
            bias_span,
            spans.output.first(batch * output.len()),
        ])?;
        let (x, weight, bias) = (&*x, Matrix::new(weight, output.channels, op.patch_len()), &*bias);
        y.par_chunks_mut(per_piece * line_len).enumerate().for_each(|(piece, y)| {
            let first_line = piece * per_piece;
            let rows = y.len() / output.channels;
            over_columns(op, output, x, first_line, rows, |columns| {
                // columns [rows, k·k·ic] · Wᵀ [k·k·ic, oc] → y [rows, oc]
                gemm(columns, weight.transposed(), y, Write::Replace);
            });
            add_bias_and_activate(y, bias, output.channels, spans.activation);
        });
        Ok(())
    }

    fn conv2d_backward_weight(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardWeight) -> Result<()> {
        let output = op.output()?;
        let (lines, line_len) = (batch * output.height, output.width * output.channels);
        let lines_per_group = lines.div_ceil(WEIGHT_GROUPS);
        let per_piece = lines_per_piece(lines_per_group, output.width, 1);
        let [x, d_y, d_weight] = self.memory.floats([
            spans.input.first(batch * op.input.len()),
            spans.d_output.first(batch * output.len()),
            spans.d_weight,
        ])?;
        let (x, d_y, weight_len) = (&*x, &*d_y, op.weight_len());
        let groups = lines.div_ceil(lines_per_group);
        self.conv.partial_weights.resize((groups * weight_len).max(self.conv.partial_weights.len()), 0.0);
        let partials = &mut self.conv.partial_weights[..groups * weight_len];
        partials.par_chunks_mut(weight_len).enumerate().for_each(|(group, partial)| {
            let group_end = ((group + 1) * lines_per_group).min(lines);
            let mut write = Write::Replace;
            for line in (group * lines_per_group..group_end).step_by(per_piece) {
                let end = (line + per_piece).min(group_end);
                let rows = (end - line) * output.width;
                let d_y = Matrix::new(&d_y[line * line_len..end * line_len], rows, output.channels);
                over_columns(op, output, x, line, rows, |columns| {
                    // d_yᵀ [oc, rows] · columns [rows, k·k·ic] → d_weight [oc, k·k·ic]
                    gemm(d_y.transposed(), columns, partial, write);
                });
                write = Write::Accumulate;
            }
        });
        sum_in_order(partials, &mut d_weight[..weight_len]);
        Ok(())
    }

    fn conv2d_backward_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        let output = op.output()?;
        let [d_y, weight, d_x] = self.memory.floats([
            spans.d_output.first(batch * output.len()),
            spans.weight,
            spans.d_input.first(batch * op.input.len()),
        ])?;
        let (d_y, weight) = (&*d_y, Matrix::new(weight, output.channels, op.patch_len()));
        d_x.par_chunks_mut(op.input.len()).enumerate().for_each(|(sample, d_x)| {
            let d_y = Matrix::new(&d_y[sample * output.len()..], output.pixels(), output.channels);
            if op.is_pointwise() {
                return gemm(d_y, weight, d_x, Write::Replace);
            }
            with_columns(output.pixels() * op.patch_len(), |columns| {
                // d_y [rows, oc] · W [oc, k·k·ic] → d_columns [rows, k·k·ic]
                gemm(d_y, weight, columns, Write::Replace);
                col2im(op, output, columns, d_x);
            });
        });
        Ok(())
    }
}

/// Gives `body` the columns `[rows, patch_len]` of the output lines from `first_line`: the input itself where the
/// convolution is pointwise, else their im2col.
fn over_columns(op: &Conv2d, output: Shape, x: &[f32], first_line: usize, rows: usize, body: impl FnOnce(Matrix)) {
    let patch = op.patch_len();
    if op.is_pointwise() {
        let begin = first_line * output.width * patch;
        return body(Matrix::new(&x[begin..begin + rows * patch], rows, patch));
    }
    with_columns(rows * patch, |columns| {
        for (line, columns) in columns.chunks_exact_mut(output.width * patch).enumerate() {
            let (sample, oy) = ((first_line + line) / output.height, (first_line + line) % output.height);
            im2col_line(op, &x[sample * op.input.len()..][..op.input.len()], oy, columns);
        }
        body(Matrix::new(columns, rows, patch));
    });
}

/// The columns of output line `oy` of one sample, `[ow][kernel][kernel][ic]`; padding is zero.
fn im2col_line(op: &Conv2d, x: &[f32], oy: usize, columns: &mut [f32]) {
    let (window, input) = (op.window, op.input);
    let run = window.kernel * input.channels; // one kernel row: contiguous in NHWC
    for (ox, patch) in columns.chunks_exact_mut(op.patch_len()).enumerate() {
        for (ky, target) in patch.chunks_exact_mut(run).enumerate() {
            let Some(iy) = (oy * window.stride + ky).checked_sub(window.padding).filter(|&iy| iy < input.height) else {
                target.fill(0.0);
                continue;
            };
            let row = &x[iy * input.width * input.channels..][..input.width * input.channels];
            let clip = clip_row(op, ox);
            if clip.skipped > 0 || clip.taken < window.kernel {
                target.fill(0.0);
            }
            let (to, from, len) =
                (clip.skipped * input.channels, clip.first * input.channels, clip.taken * input.channels);
            target[to..to + len].copy_from_slice(&row[from..from + len]);
        }
    }
}

/// What part of a kernel row lies in the input.
struct Clip {
    /// Kernel columns left of the input.
    skipped: usize,
    /// The input column that the first one inside reads.
    first: usize,
    /// Kernel columns inside.
    taken: usize,
}

fn clip_row(op: &Conv2d, ox: usize) -> Clip {
    let left = ox * op.window.stride; // in padded coordinates
    let skipped = op.window.padding.saturating_sub(left).min(op.window.kernel);
    let first = (left + skipped).saturating_sub(op.window.padding);
    let taken = (op.window.kernel - skipped).min(op.input.width.saturating_sub(first));
    Clip { skipped, first: first.min(op.input.width), taken }
}

/// Adds the columns `[oh·ow][kernel][kernel][ic]` of one sample back to the inputs they came from.
fn col2im(op: &Conv2d, output: Shape, columns: &[f32], d_x: &mut [f32]) {
    let (window, input) = (op.window, op.input);
    let run = window.kernel * input.channels;
    d_x.fill(0.0);
    for (row, patch) in columns.chunks_exact(op.patch_len()).enumerate() {
        let (oy, ox) = (row / output.width, row % output.width);
        let clip = clip_row(op, ox);
        for (ky, source) in patch.chunks_exact(run).enumerate() {
            let Some(iy) = (oy * window.stride + ky).checked_sub(window.padding).filter(|&iy| iy < input.height) else {
                continue;
            };
            let target = &mut d_x[(iy * input.width + clip.first) * input.channels..][..clip.taken * input.channels];
            let source = &source[clip.skipped * input.channels..];
            target.iter_mut().zip(source).for_each(|(target, source)| *target += source);
        }
    }
}

/// `y = activation(y + bias)` over rows of `channels`; an empty bias adds nothing.
pub(super) fn add_bias_and_activate(y: &mut [f32], bias: &[f32], channels: usize, activation: Activation) {
    if bias.is_empty() {
        y.iter_mut().for_each(|y| *y = activation.apply(*y));
        return;
    }
    for row in y.chunks_exact_mut(channels) {
        row.iter_mut().zip(bias).for_each(|(y, bias)| *y = activation.apply(*y + bias));
    }
}

/// `sum[i] = partials[0][i] + partials[1][i] + …`, in that order.
pub(super) fn sum_in_order(partials: &[f32], sum: &mut [f32]) {
    let len = sum.len();
    let chunk = super::ELEMENTWISE_CHUNK / 8;
    sum.par_chunks_mut(chunk).enumerate().for_each(|(index, sum)| {
        let begin = index * chunk;
        sum.copy_from_slice(&partials[begin..begin + sum.len()]);
        for partial in partials[len..].chunks_exact(len) {
            sum.iter_mut().zip(&partial[begin..]).for_each(|(sum, partial)| *sum += partial);
        }
    });
}

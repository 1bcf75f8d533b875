//! The linear layer on the CPU: three matrix products, each tiled so that the large weight is read or written once.

use anyhow::Result;
use half::bf16;
use rayon::prelude::*;

use super::gemm::kernel::{Gemm, LeftStrides, Start, prefetch, tile_rows};
use super::gemm::pairs;
use super::runtime::scratch::{self, Buffer, PANEL, grown};
use super::{Cpu, Instructions, Loop, Real, RunAs, finish};
use crate::ops::{
    Activation, BiasActivationBackward, Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, RunOn,
};

/// Rows of weights per task: a multiple of every instruction set's tile height.
const BLOCK_ROWS: usize = 24;

/// Depth of a block of the inner dimension, so that both operands' blocks stay in L1.
const DEPTH: usize = 128;

/// For smaller batches, one dot product per sample is faster than vectors of samples, which would be mostly empty.
const SMALL_BATCH: usize = 4;

/// Minimum number of weights per task for a small batch.
const MIN_WORK: usize = 32 * 1024;

/// Panels of the input gradient per task, so that a thread reads whole cache lines of the weight.
const BLOCK_PANELS: usize = 8;

/// Floats of padding per row, so that rows of a copy do not map to the same cache sets.
const SKEW: usize = 16;

impl RunAs for LinearForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { op, activation, input, weight, bias, output, .. } = self;
        let (depth, set) = (op.in_features, cpu.instructions);
        let batch = input.len / depth;
        let views = cpu.memory.views::<R, 3, 1>([input, weight, output], [bias.unwrap_or(weight.first(0))], None)?;
        let ([x, weight, y], [bias]) = (views.values, views.floats);
        let x = &*x;
        let y_transposed = grown(&mut cpu.scratch.partials, batch * op.out_features);
        if batch < SMALL_BATCH {
            let work = y_transposed.par_chunks_mut(BLOCK_ROWS * batch).zip(weight.par_chunks(BLOCK_ROWS * depth));
            let min_blocks = MIN_WORK / (BLOCK_ROWS * depth);
            work.with_min_len(min_blocks.max(1)).for_each(|(y, weight)| set.run(DotProducts { depth, weight, x, y }));
        } else {
            let has_pairs = depth.is_multiple_of(2);
            let pairs = pairs::of_values(set, x).zip(pairs::of_values(set, weight)).filter(|_| has_pairs);
            match pairs {
                Some((x, weight)) => multiply(set, (x, weight), depth / 2, true, &mut cpu.scratch.packed, y_transposed),
                None => multiply(set, (x, &*weight), depth, false, &mut cpu.scratch.packed, y_transposed),
            }
        }
        let (y_transposed, bias) = (&*y_transposed, &*bias);
        let samples_per_piece = if batch < SMALL_BATCH { batch } else { batch.div_ceil(8).min(PANEL) };
        y.par_chunks_mut(samples_per_piece * op.out_features).enumerate().for_each(|(piece, y)| {
            scratch::with_output(set, y, |y| {
                for (index, y) in y.chunks_exact_mut(op.out_features).enumerate() {
                    let sample = piece * samples_per_piece + index;
                    for (feature, y) in y.iter_mut().enumerate() {
                        let bias = bias.get(feature).copied().unwrap_or(0.0);
                        let sum = y_transposed[feature * batch + sample] + bias;
                        *y = if activation == Activation::Relu { activation.apply(sum) } else { sum };
                    }
                }
                finish::<R, f32>(set, activation, None, y);
            });
        });
        Ok(())
    }
}

impl RunAs for LinearBackwardWeight {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (cols, set) = (self.op.in_features, cpu.instructions);
        let batch = self.input.len / cols;
        let views = cpu.memory.views::<R, 2, 1>([self.input, self.d_output], [self.d_weight], None)?;
        let ([x, d_y], [d_weight]) = (views.values, views.floats);
        let x = &*x;
        // Of pairs, the samples are half as many.
        let pairs = R::as_bf16(x).zip(R::as_bf16(d_y)).filter(|_| set.multiplies_pairs());
        let depth = if pairs.is_some() { batch.div_ceil(2) } else { batch };
        let x_panels = grown(&mut cpu.scratch.packed, depth * cols);
        x_panels.par_chunks_mut(depth * PANEL).enumerate().for_each(|(panel, target)| {
            let (at, width) = (panel * PANEL, target.len() / depth);
            match pairs {
                Some((x, _)) => pairs::pack_panels(set, &x[at..], cols, (batch, width), target),
                None => scratch::pack_panels(set, &x[at..], cols, (batch, width), target),
            }
        });
        let (d_y, stride) = match pairs {
            Some((_, d_y)) => skewed_pairs(&mut cpu.scratch.partials, d_y, self.op.out_features),
            None => skewed(&mut cpu.scratch.partials, d_y, self.op.out_features),
        };
        let x_panels = &*x_panels;
        // d_yᵀ [out, n] · x [n, in] → d_weight [out, in]
        d_weight.par_chunks_mut(BLOCK_ROWS * cols).enumerate().for_each(|(block, d_weight)| {
            let d_y = (&d_y[block * BLOCK_ROWS..], stride);
            weight_block(set, d_y, x_panels, depth, pairs.is_some(), cols, d_weight);
        });
        Ok(())
    }
}

impl RunAs for LinearBackwardInput {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, cols, set) = (&self.op, self.op.in_features, cpu.instructions);
        let batch = self.d_input.len / cols;
        let [d_y, weight, d_x] = cpu.memory.values::<R, _>([self.d_output, self.weight, self.d_input])?;
        let weight = &*weight;
        let has_pairs = op.out_features.is_multiple_of(2);
        let pairs = pairs::of_values(set, d_y).zip(R::as_bf16(weight)).filter(|_| has_pairs);
        let (d_y, stride) = match pairs {
            Some((d_y, _)) => skewed(&mut cpu.scratch.partials, d_y, op.out_features / 2),
            None => skewed(&mut cpu.scratch.partials, d_y, op.out_features),
        };
        // d_y [n, out] · W [out, in] → d_x, packed in panels of columns, [panel][n][PANEL]
        let panels = grown(&mut cpu.scratch.packed, batch * cols);
        panels.par_chunks_mut(BLOCK_PANELS * PANEL * batch).enumerate().for_each(|(block, d_x)| {
            input_block(set, (d_y, stride), &weight[block * BLOCK_PANELS * PANEL..], pairs.is_some(), op, d_x);
        });
        let panels = &*panels;
        d_x.par_chunks_mut(cols).enumerate().for_each(|(sample, d_x)| {
            for (index, d_x) in d_x.chunks_mut(PANEL).enumerate() {
                let panel = &panels[index * PANEL * batch..];
                R::copy_from_floats(&panel[sample * d_x.len()..][..d_x.len()], d_x);
            }
        });
        match self.epilogue {
            Some(epilogue) => BiasActivationBackward::of_epilogue(cols, self.d_input, epilogue).run_on(cpu),
            None => Ok(()),
        }
    }
}

/// `y [rows][batch] = weight [rows][depth] · x [batch][depth]ᵀ`; the values may be pairs.
fn multiply<E: Real>(
    set: Instructions,
    (x, weight): (&[E], &[E]),
    depth: usize,
    pairs: bool,
    packed: &mut Vec<f32>,
    y: &mut [f32],
) {
    let batch = x.len() / depth;
    // xᵀ, packed in panels of samples, [panel][in][PANEL], so that yᵀ = W · xᵀ reads the weight in place.
    let x_panels = grown(packed, batch * depth);
    x_panels.par_chunks_mut(depth * PANEL).zip(x.par_chunks(depth * PANEL)).for_each(|(panel, x)| {
        scratch::transpose(set, x, depth, panel, x.len() / depth);
    });
    let work = y.par_chunks_mut(BLOCK_ROWS * batch).zip(weight.par_chunks(BLOCK_ROWS * depth));
    work.for_each(|(y, weight)| transposed_block(set, depth, pairs, weight, x_panels, y));
}

/// `y [rows][batch] = weight [rows][depth] · x [batch][depth]ᵀ`, vectorised along the depth.
struct DotProducts<'a, R> {
    depth: usize,
    weight: &'a [R],
    x: &'a [R],
    y: &'a mut [f32],
}

impl<R: Real> Loop for DotProducts<'_, R> {
    #[inline(always)]
    fn run(self) {
        let Self { depth, weight, x, y } = self;
        // Measured: two accumulator vectors reach a higher memory throughput than four, and one row than several.
        const LANES: usize = 32;
        let batch = x.len() / depth;
        for (weight, y) in weight.chunks_exact(depth).zip(y.chunks_exact_mut(batch)) {
            for (x, y) in x.chunks_exact(depth).zip(y) {
                let mut sums = [0.0_f32; LANES];
                let (weights, inputs) = (weight.chunks_exact(LANES), x.chunks_exact(LANES));
                let rest: f32 =
                    weights.remainder().iter().zip(inputs.remainder()).map(|(w, x)| w.get() * x.get()).sum();
                for (weights, inputs) in weights.zip(inputs) {
                    for lane in 0..LANES {
                        sums[lane] += weights[lane].get() * inputs[lane].get();
                    }
                }
                *y = sums.iter().sum::<f32>() + rest;
            }
        }
    }
}

/// `y [rows][batch] = weight [rows][depth] · x`, with `x` in panels `[panel][depth][PANEL]`.
fn transposed_block<E: Real>(
    set: Instructions,
    depth: usize,
    pairs: bool,
    weight: &[E],
    x_panels: &[f32],
    y: &mut [f32],
) {
    let rows = weight.len() / depth;
    let batch = y.len() / rows;
    scratch::with(Buffer::Packed, rows * (DEPTH + SKEW), |block| {
        for begin in (0..depth).step_by(DEPTH) {
            let inner = DEPTH.min(depth - begin);
            for (block, weight) in block.chunks_exact_mut(DEPTH + SKEW).zip(weight.chunks_exact(depth)) {
                let values = &weight[begin..begin + inner];
                set.run(scratch::ToFloats { values, floats: &mut block[..inner] });
            }
            let start = if begin == 0 { Start::Zero } else { Start::Accumulate };
            for (index, panel) in x_panels.chunks(depth * PANEL).enumerate() {
                let cols = panel.len() / depth;
                let product = Gemm {
                    lines: 1,
                    rows,
                    cols,
                    outer: 1,
                    inner,
                    a: LeftStrides { line: 0, row: DEPTH + SKEW, outer: 0, inner: 1 },
                    b_inner: cols,
                    c_row: batch,
                    pairs,
                    ..Gemm::default()
                };
                product.run(set, block, &panel[begin * cols..], &mut y[index * PANEL..], start, false);
            }
        }
    });
}

/// `d_weight [rows][cols] = d_yᵀ · x`, with `x` in panels `[panel][batch][PANEL]`, of which batch may be pairs of samples.
fn weight_block(
    set: Instructions,
    (d_y, stride): (&[f32], usize),
    x_panels: &[f32],
    batch: usize,
    pairs: bool,
    cols: usize,
    d_weight: &mut [f32],
) {
    let rows = d_weight.len() / cols;
    for (index, x) in x_panels.chunks(batch * PANEL).enumerate() {
        let width = x.len() / batch;
        let product = Gemm {
            lines: 1,
            rows,
            cols: width,
            outer: 1,
            inner: batch,
            a: LeftStrides { line: 0, row: 1, outer: 0, inner: stride },
            b_inner: width,
            c_row: cols,
            pairs,
            ..Gemm::default()
        };
        product.run(set, d_y, x, &mut d_weight[index * PANEL..], Start::Zero, false);
    }
}

/// `d_x = d_y · weight` for a few panels `[panel][n][PANEL]` of columns; `weight` starts at the first of these columns, and
/// `d_y` may hold pairs.
fn input_block<R: Real>(
    set: Instructions,
    (d_y, stride): (&[f32], usize),
    weight: &[R],
    pairs: bool,
    op: &Linear,
    d_x: &mut [f32],
) {
    let batch = d_y.len() / stride;
    let (cols, strip_rows) = (d_x.len() / batch, tile_rows(set));
    // Rows of the weight per row of a packed block.
    let terms = if pairs { 2 } else { 1 };
    scratch::with(Buffer::Packed, DEPTH * PANEL, |packed| {
        for begin in (0..op.out_features).step_by(DEPTH) {
            let inner = DEPTH.min(op.out_features - begin);
            let start = if begin == 0 { Start::Zero } else { Start::Accumulate };
            let weight = &weight[begin * op.in_features..];
            for (index, d_x) in d_x.chunks_mut(batch * PANEL).enumerate() {
                let width = d_x.len() / batch;
                let columns = &weight[index * PANEL..];
                match R::as_bf16(columns).filter(|_| pairs) {
                    Some(columns) => pairs::pack_panels(set, columns, op.in_features, (inner, width), packed),
                    None => scratch::pack_panels(set, columns, op.in_features, (inner, width), packed),
                }
                let next = match (index + 1) * PANEL {
                    next if next < cols => &weight[next..],
                    _ => weight.get(inner * op.in_features..).unwrap_or_default(),
                };
                let share = inner.div_ceil(batch.div_ceil(strip_rows));
                for (strip, d_x) in d_x.chunks_mut(strip_rows * width).enumerate() {
                    for row in next.chunks(op.in_features).take(inner).skip(strip * share).take(share) {
                        prefetch(&row[..row.len().min(PANEL)]);
                    }
                    let product = Gemm {
                        lines: 1,
                        rows: d_x.len() / width,
                        cols: width,
                        outer: 1,
                        inner: inner / terms,
                        a: LeftStrides { line: 0, row: stride, outer: 0, inner: 1 },
                        b_inner: width,
                        c_row: width,
                        pairs,
                        ..Gemm::default()
                    };
                    let d_y = &d_y[strip * strip_rows * stride + begin / terms..];
                    product.run(set, d_y, packed, d_x, start, false);
                }
            }
        }
    });
}

/// Pairs of the rows of `values [rows][cols]`, with padded rows, and their row stride.
fn skewed_pairs<'a>(buffer: &'a mut Vec<f32>, values: &[bf16], cols: usize) -> (&'a [f32], usize) {
    let stride = cols + SKEW;
    let copy = grown(buffer, (values.len() / cols).div_ceil(2) * stride);
    for (copy, rows) in copy.chunks_exact_mut(stride).zip(values.chunks(2 * cols)) {
        pairs::of_rows(&rows[..cols], rows.get(cols..).filter(|row| !row.is_empty()), &mut copy[..cols]);
    }
    (copy, stride)
}

/// A copy of `values [rows][cols]` with padded rows, so that they do not map to the same cache sets, and its row
/// stride.
fn skewed<'a, R: Real>(buffer: &'a mut Vec<f32>, values: &[R], cols: usize) -> (&'a [f32], usize) {
    let stride = cols + SKEW;
    let copy = grown(buffer, values.len() / cols * stride);
    for (copy, row) in copy.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
        R::copy_to_floats(row, &mut copy[..cols]);
    }
    (copy, stride)
}

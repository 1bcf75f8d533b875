//! Convolution on the CPU: matrix products that read the input in place, without im2col.

use anyhow::Result;
use rayon::prelude::*;

use super::gemm::kernel::{Gemm, LeftStrides, Start};
use super::geometry::Geometry;
use super::runtime::scratch::{self, Buffer, PANEL, grown, weight_groups};
use super::winograd::forward::Epilogue;
use super::winograd::tiling::Winograd;
use super::{Cpu, Instructions, finish};
use crate::ops::{
    Activation, Add, BiasActivationBackward, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, MaxPool2d,
    MaxPool2dForward, Op, PoolEpilogue, RunOn, Span,
};

/// Minimum number of pieces of a forward pass, so that a small batch keeps all threads busy.
const MIN_PIECES: usize = 16;

/// Output pixels per piece of the weight gradient, so that their inputs and gradients nearly fit in L1.
const WEIGHT_PIXELS: usize = 128;

/// The floating-point operations of the products by which Winograd's algorithm computes an operator, without its
/// transforms; `None` if the operator is computed in another way.
pub(super) fn executed_flops(op: &Op) -> Option<usize> {
    let (op, input) = match op {
        Op::Conv2dForward(it) => (it.op, it.input),
        Op::Conv2dBackwardWeight(it) => (it.op, it.input),
        Op::Conv2dBackwardInput(it) => {
            let winograd = Winograd::of_input_gradient(&it.op, it.op.output().ok()?)?;
            return Some(winograd.flops(it.d_input.len / it.op.input.len()));
        }
        _ => return None,
    };
    Some(Winograd::new(&op, op.output().ok()?)?.flops(input.len / op.input.len()))
}

impl RunOn<Cpu> for Conv2dForward {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let winograd = Winograd::new(&self.op, self.op.output()?);
        let batch = self.input.len / self.op.input.len();
        let fits = |it: &Winograd, pool: &MaxPool2d| !it.is_by_panels(batch) && it.can_fuse_pool(pool, self.activation);
        let fused = winograd.and_then(|it| self.pool.filter(|pool| fits(&it, &pool.op)));
        match winograd {
            Some(winograd) => self.convolve_winograd(cpu, &winograd, fused)?,
            None => self.convolve(cpu)?,
        }
        if let Some(PoolEpilogue { op, output, argmax }) = self.pool.filter(|_| fused.is_none()) {
            MaxPool2dForward { op, input: self.output, output, argmax }.run_on(cpu)?;
        }
        self.statistics.map_or(Ok(()), |statistics| statistics.of_input(self.output).run_on(cpu))
    }
}

impl RunOn<Cpu> for Conv2dBackwardWeight {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, geometry) = (&self.op, Geometry::new(&self.op)?);
        let (output, patch, set) = (geometry.output, op.patch_len(), cpu.instructions);
        let lines = self.d_output.len / output.len() * output.height;
        let [x, d_y, d_weight] = cpu.memory.floats([self.input, self.d_output, self.d_weight])?;
        let (x, d_y) = (&*x, &*d_y);
        if let Some(winograd) = Winograd::new(op, output) {
            match winograd.is_by_panels(x.len() / op.input.len()) {
                true => winograd.backward_weight_by_panels(set, x, d_y, d_weight, &mut cpu.scratch),
                false => winograd.backward_weight(set, x, d_y, d_weight, &mut cpu.scratch.partials),
            }
            return Ok(());
        }
        if !op.is_plain() {
            geometry.grouped_backward_weight(set, x, d_y, d_weight, &mut cpu.scratch.partials);
            return Ok(());
        }
        // Each group sums d_weightᵀ over its lines, [panel][k·k·ic][PANEL].
        let panels = output.channels.div_ceil(PANEL);
        let lines_per_group = lines.div_ceil(weight_groups(panels * patch * PANEL, panels));
        let groups = lines.div_ceil(lines_per_group);
        let partials = grown(&mut cpu.scratch.partials, groups * panels * patch * PANEL);
        partials.par_chunks_mut(patch * PANEL).enumerate().for_each(|(index, partial)| {
            let (group, panel) = (index / panels, index % panels);
            let group = group * lines_per_group..((group + 1) * lines_per_group).min(lines);
            geometry.sum_weights(set, x, d_y, group, panel, partial);
        });
        let (first, others) = partials.split_at_mut(panels * patch * PANEL);
        let work = first.par_chunks_mut(patch * PANEL).zip(d_weight.par_chunks_mut(patch * PANEL)).enumerate();
        work.for_each(|(panel, (sum, d_weight))| {
            let width = d_weight.len() / patch;
            let sum = &mut sum[..patch * width];
            set.run(|| {
                for group in others.chunks_exact(panels * patch * PANEL) {
                    let terms = &group[panel * patch * PANEL..];
                    sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                }
                scratch::transpose(sum, width, d_weight, patch);
            });
        });
        Ok(())
    }
}

impl RunOn<Cpu> for Conv2dBackwardInput {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let (channels, d_input) = (self.op.input.channels, self.d_input);
        self.input_gradient(cpu)?;
        if let Some(added) = self.added {
            Add { a: d_input, b: added, output: d_input }.run_on(cpu)?;
        }
        if let Some(epilogue) = self.epilogue {
            BiasActivationBackward::of_epilogue(channels, d_input, epilogue).run_on(cpu)?;
        }
        self.norm.map_or(Ok(()), |norm| norm.of_gradient(d_input).run_on(cpu))
    }
}

impl Conv2dForward {
    /// The Winograd convolution, with `pool` fused into it.
    fn convolve_winograd(&self, cpu: &mut Cpu, winograd: &Winograd, pool: Option<PoolEpilogue>) -> Result<()> {
        let set = cpu.instructions;
        let (output, argmax) = pool.map_or((self.output, None), |pool| (pool.output, pool.argmax));
        let version = cpu.memory.parameters_version();
        let [bias, residual] = self.optional_operands();
        let floats = [self.input, self.weight, bias, residual, output];
        let ([x, weight, bias, residual, y], argmax) = cpu.memory.floats_and_indices(floats, argmax)?;
        let residual = self.residual_of(x, residual);
        let epilogue = Epilogue { bias, residual, activation: self.activation, pooled: pool.is_some() };
        if winograd.is_by_panels(x.len() / self.op.input.len()) {
            winograd.forward_by_panels(set, x, weight, epilogue, y, &mut cpu.scratch);
            return Ok(());
        }
        let pack = |target: &mut [f32]| winograd.transform_weights(set, weight, target);
        let weights = cpu.weight_cache.weights(&self.op, self.weight, version, winograd.weight_len(), pack);
        winograd.forward(set, x, weights, epilogue, y, argmax);
        Ok(())
    }

    /// The convolution by direct products, without its pooling.
    fn convolve(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, geometry) = (&self.op, Geometry::new(&self.op)?);
        let (output, patch, set) = (geometry.output, op.patch_len(), cpu.instructions);
        let version = cpu.memory.parameters_version();
        let [bias, residual] = self.optional_operands();
        let [x, weight, bias, residual, y] =
            cpu.memory.floats([self.input, self.weight, bias, residual, self.output])?;
        let (x, weight, bias, residual) = (&*x, &*weight, &*bias, self.residual_of(x, residual));
        // Wᵀ, packed in panels of columns, [panel][k·k·ic][PANEL]
        let panels = cpu.weight_cache.weights(op, self.weight, version, op.weight_len(), |panels| {
            if !op.is_plain() {
                return geometry.grouped_weights(weight, panels);
            }
            panels.par_chunks_mut(patch * PANEL).zip(weight.par_chunks(patch * PANEL)).for_each(|(panel, weight)| {
                let width = weight.len() / patch;
                set.run(|| scratch::transpose(weight, patch, panel, width));
            });
        });
        let batch = x.len() / op.input.len();
        let lines_per_piece = output.height.div_ceil(MIN_PIECES.div_ceil(batch));
        let piece_len = lines_per_piece * output.width * output.channels;
        let pieces = y.par_chunks_mut(output.len()).enumerate().flat_map(|(sample, y)| {
            y.par_chunks_mut(piece_len).enumerate().map(move |(piece, y)| (sample, piece * lines_per_piece, y))
        });
        pieces.for_each(|(sample, first, y)| {
            let lines = y.len() / (output.width * output.channels);
            let relu = self.activation == Activation::Relu && residual.is_none();
            geometry.with_padded(&x[sample * op.input.len()..][..op.input.len()], first, lines, |x| {
                if !op.is_plain() {
                    return geometry.grouped_forward(set, x, panels, bias, y, relu);
                }
                for (index, panel) in panels.chunks(patch * PANEL).enumerate() {
                    let start = if bias.is_empty() { Start::Zero } else { Start::Bias(&bias[index * PANEL..]) };
                    geometry.forward(lines, panel.len() / patch).run(
                        set,
                        x,
                        panel,
                        &mut y[index * PANEL..],
                        start,
                        relu,
                    );
                }
            });
            let at = sample * output.len() + first * output.width * output.channels;
            finish(set, self.activation, residual.map(|all| &all[at..]), y);
        });
        Ok(())
    }

    /// The spans of bias and residual, empty if there is none or if the residual is the input.
    fn optional_operands(&self) -> [Span; 2] {
        let residual = self.residual.filter(|&residual| residual != self.input);
        [self.bias, residual].map(|operand| operand.unwrap_or(self.weight.first(0)))
    }

    /// The residual, if there is one, whose span by [`Self::optional_operands`] has the values `own`.
    fn residual_of<'a>(&self, input: &'a [f32], own: &'a [f32]) -> Option<&'a [f32]> {
        self.residual.map(|residual| if residual == self.input { input } else { own })
    }
}

impl Conv2dBackwardInput {
    /// The input gradient without its epilogue.
    fn input_gradient(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, geometry) = (&self.op, Geometry::new(&self.op)?);
        let (output, set, row_len) = (geometry.output, cpu.instructions, geometry.row_len);
        let [d_y, weight, d_x] = cpu.memory.floats([self.d_output, self.weight, self.d_input])?;
        if let Some(winograd) = Winograd::of_input_gradient(op, output) {
            if winograd.is_by_panels(d_x.len() / op.input.len()) {
                winograd.forward_by_panels(set, d_y, weight, Epilogue::NONE, d_x, &mut cpu.scratch);
                return Ok(());
            }
            let weights = grown(&mut cpu.scratch.packed, winograd.weight_len());
            winograd.transform_weights(set, weight, weights);
            winograd.forward(set, d_y, weights, Epilogue::NONE, d_x, None);
            return Ok(());
        }
        if !op.is_plain() {
            let samples = d_x.par_chunks_mut(op.input.len()).zip(d_y.par_chunks(output.len()));
            samples.for_each(|(d_x, d_y)| geometry.grouped_backward_input(set, d_y, weight, d_x));
            return Ok(());
        }
        // W, split by kernel row and packed in panels of columns, [ky][panel][oc][PANEL]
        let packed = grown(&mut cpu.scratch.packed, op.weight_len());
        packed.par_chunks_mut(output.channels * row_len).enumerate().for_each(|(ky, packed)| {
            scratch::pack_panels(&weight[ky * row_len..], op.patch_len(), row_len, packed, output.channels);
        });
        let (packed, d_y) = (&*packed, &*d_y);
        let padding = op.window.padding;
        d_x.par_chunks_mut(op.input.len()).enumerate().for_each(|(sample, d_x)| {
            let d_y = &d_y[sample * output.len()..][..output.len()];
            if padding == 0 {
                return geometry.scatter(set, d_y, packed, d_x);
            }
            scratch::with(Buffer::Padded, (op.input.height + 2 * padding) * geometry.line, |padded| {
                geometry.scatter(set, d_y, packed, padded);
                let width = op.input.width * op.input.channels;
                let lines = padded.chunks_exact(geometry.line).skip(padding);
                for (d_x, line) in d_x.chunks_exact_mut(width).zip(lines) {
                    d_x.copy_from_slice(&line[padding * op.input.channels..][..width]);
                }
            });
        });
        Ok(())
    }
}

impl Geometry {
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
        }
    }

    /// `partial [k·k·ic][PANEL] = xᵀ · d_y` over the output lines of `group`, for one panel of output channels.
    fn sum_weights(
        &self,
        set: Instructions,
        x: &[f32],
        d_y: &[f32],
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
            };
            let d_y = &d_y[at * line_len + panel * PANEL..];
            self.with_padded(&x[sample * input_len..][..input_len], first, lines, |x| {
                let pixels = lines * output.width;
                if cols == output.channels {
                    return product.run(set, x, d_y, partial, start, false);
                }
                scratch::with(Buffer::Packed, pixels * cols, |packed| {
                    scratch::pack_panels(d_y, output.channels, cols, packed, pixels);
                    product.run(set, x, packed, partial, start, false);
                });
            });
            (at, start) = (at + lines, Start::Accumulate);
        }
    }

    /// `d_x = col2im(d_y · W)` of one sample, in padded coordinates: every output pixel adds to the input pixels of its
    /// window, one kernel row at a time.
    fn scatter(&self, set: Instructions, d_y: &[f32], packed: &[f32], d_x: &mut [f32]) {
        let (output, (c_line, c_row)) = (self.output, self.strides());
        d_x.fill(0.0);
        for (ky, panels) in packed.chunks_exact(output.channels * self.row_len).enumerate() {
            for (index, panel) in panels.chunks(output.channels * PANEL).enumerate() {
                let cols = panel.len() / output.channels;
                let product = Gemm {
                    lines: output.height,
                    rows: output.width,
                    cols,
                    outer: 1,
                    inner: output.channels,
                    a: LeftStrides { line: output.width * output.channels, row: output.channels, outer: 0, inner: 1 },
                    b_outer: 0,
                    b_inner: cols,
                    c_line,
                    c_row,
                };
                product.run(set, d_y, panel, &mut d_x[ky * self.line + index * PANEL..], Start::Accumulate, false);
            }
        }
    }
}

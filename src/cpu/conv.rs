//! Convolution on the CPU: matrix products that read the input in place, without im2col.

use anyhow::Result;
use rayon::prelude::*;

use super::gemm::pairs;
use super::geometry::Geometry;
use super::runtime::scratch::{self, Buffer, PANEL, grown, weight_groups};
use super::winograd::forward::Epilogue;
use super::winograd::tiling::Winograd;
use super::{Cpu, Real, RunAs};
use crate::ops::{
    Add, BiasActivationBackward, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, MaxPool2d, MaxPool2dForward,
    Op, PoolEpilogue, RunOn, Span,
};

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

impl RunAs for Conv2dForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let winograd = Winograd::new(&self.op, self.op.output()?);
        let batch = self.input.len / self.op.input.len();
        let fits = |it: &Winograd, pool: &MaxPool2d| !it.is_by_panels(batch) && it.can_fuse_pool(pool, self.activation);
        let fused = winograd.and_then(|it| self.pool.filter(|pool| fits(&it, &pool.op)));
        match winograd {
            Some(winograd) => self.convolve_winograd::<R>(cpu, &winograd, fused)?,
            None => self.convolve::<R>(cpu)?,
        }
        if let Some(PoolEpilogue { op, output, argmax }) = self.pool.filter(|_| fused.is_none()) {
            MaxPool2dForward { op, input: self.output, output, argmax }.run_on(cpu)?;
        }
        self.statistics.map_or(Ok(()), |statistics| statistics.of_input(self.output).run_on(cpu))
    }
}

impl RunAs for Conv2dBackwardWeight {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, geometry) = (&self.op, Geometry::new(&self.op)?);
        let (output, patch, set) = (geometry.output, op.patch_len(), cpu.instructions);
        let lines = self.d_output.len / output.len() * output.height;
        let views = cpu.memory.views::<R, 2, 1>([self.input, self.d_output], [self.d_weight], None)?;
        let ([x, d_y], [d_weight]) = (views.values, views.floats);
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
            scratch::add_groups(set, others, panels * patch * PANEL, panel * patch * PANEL, sum);
            scratch::transpose(set, sum, width, d_weight, patch);
        });
        Ok(())
    }
}

impl RunAs for Conv2dBackwardInput {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (channels, d_input) = (self.op.input.channels, self.d_input);
        self.input_gradient::<R>(cpu)?;
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
    fn convolve_winograd<R: Real>(&self, cpu: &mut Cpu, winograd: &Winograd, pool: Option<PoolEpilogue>) -> Result<()> {
        let set = cpu.instructions;
        let (output, argmax) = pool.map_or((self.output, None), |pool| (pool.output, pool.argmax));
        let version = cpu.memory.parameters_version();
        let [bias, residual] = self.optional_operands();
        let views = cpu.memory.views::<R, 4, 1>([self.input, self.weight, residual, output], [bias], argmax)?;
        let ([x, weight, residual, y], [bias]) = (views.values, views.floats);
        let (residual, argmax) = (self.residual_of(x, residual), argmax.map(|_| views.indices));
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
    fn convolve<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, set, version) = (&self.op, cpu.instructions, cpu.memory.parameters_version());
        let [bias, residual] = self.optional_operands();
        let views = cpu.memory.views::<R, 4, 1>([self.input, self.weight, residual, self.output], [bias], None)?;
        let ([x, weight, residual, y], [bias]) = (views.values, views.floats);
        let (x, weight, residual) = (&*x, &*weight, self.residual_of(x, residual));
        let has_pairs = op.is_plain() && op.input.channels.is_multiple_of(2);
        let pairs = pairs::of_values(set, x).zip(pairs::of_values(set, weight)).filter(|_| has_pairs);
        let epilogue = Epilogue { bias, residual, activation: self.activation, pooled: false };
        let cache = &mut cpu.weight_cache;
        match pairs {
            Some((x, weight)) => {
                let geometry = Geometry::of_pairs(op)?;
                let weights = cache.weights(op, self.weight, version, geometry.op.weight_len(), |panels| {
                    geometry.pack_weights(set, weight, panels);
                });
                geometry.convolve(set, x, weights, epilogue, y);
            }
            None => {
                let geometry = Geometry::new(op)?;
                let weights = cache.weights(op, self.weight, version, op.weight_len(), |panels| {
                    geometry.pack_weights(set, weight, panels);
                });
                geometry.convolve(set, x, weights, epilogue, y);
            }
        }
        Ok(())
    }

    /// The spans of bias and residual, empty if there is none or if the residual is the input.
    fn optional_operands(&self) -> [Span; 2] {
        let residual = self.residual.filter(|&residual| residual != self.input);
        [self.bias, residual].map(|operand| operand.unwrap_or(self.weight.first(0)))
    }

    /// The residual, if there is one, whose span by [`Self::optional_operands`] has the values `own`.
    fn residual_of<'a, R>(&self, input: &'a [R], own: &'a [R]) -> Option<&'a [R]> {
        self.residual.map(|residual| if residual == self.input { input } else { own })
    }
}

impl Conv2dBackwardInput {
    /// The input gradient without its epilogue.
    fn input_gradient<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, geometry) = (&self.op, Geometry::new(&self.op)?);
        let (output, set, row_len) = (geometry.output, cpu.instructions, geometry.row_len);
        let [d_y, weight, d_x] = cpu.memory.values::<R, _>([self.d_output, self.weight, self.d_input])?;
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
            let weight = &*weight;
            samples.for_each(|(d_x, d_y)| {
                scratch::with_floats(set, d_y, Buffer::Converted, |d_y| {
                    scratch::with_floats(set, weight, Buffer::OtherConverted, |weight| {
                        geometry.grouped_backward_input(set, d_y, weight, d_x);
                    });
                });
            });
            return Ok(());
        }
        // W, split by kernel row and packed in panels of columns, [ky][panel][oc][PANEL], of which oc may be pairs
        let pairs = pairs::of_values(set, d_y).zip(R::as_bf16(weight)).filter(|_| output.channels.is_multiple_of(2));
        let depth = if pairs.is_some() { output.channels / 2 } else { output.channels };
        let (size, kernel) = ((output.channels, row_len), op.window.kernel);
        let packed = grown(&mut cpu.scratch.packed, kernel * depth * row_len);
        packed.par_chunks_mut(depth * row_len).enumerate().for_each(|(ky, packed)| match pairs {
            Some((_, weight)) => pairs::pack_panels(set, &weight[ky * row_len..], op.patch_len(), size, packed),
            None => scratch::pack_panels(set, &weight[ky * row_len..], op.patch_len(), size, packed),
        });
        let (packed, d_y) = (&*packed, &*d_y);
        d_x.par_chunks_mut(op.input.len()).enumerate().for_each(|(sample, d_x)| {
            let mut scatter = |d_y: &[f32]| geometry.scatter(set, d_y, packed, d_x);
            let len = output.pixels() * depth;
            match pairs {
                Some((pairs, _)) => scatter(&pairs[sample * len..][..len]),
                None => scratch::with_floats(set, &d_y[sample * len..][..len], Buffer::Converted, scatter),
            }
        });
        Ok(())
    }
}

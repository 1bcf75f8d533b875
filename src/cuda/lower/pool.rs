//! Pooling; max pooling takes the bias and activation of the convolution before it along.

use anyhow::{Result, ensure};

use super::Lowering;
use super::bias::ColumnGrid;
use super::geometry::Geometry;
use crate::cuda::program::{Address, Buffer, grid_over, params};
use crate::ops::{
    Activation, AdaptiveAvgPool2d, AdaptiveAvgPool2dBackward, AdaptiveAvgPool2dForward, AvgPool2d, AvgPool2dBackward,
    AvgPool2dForward, Layer, MaxPool2d, MaxPool2dBackward, MaxPool2dForward, PoolEpilogue, RunOn, Span,
};
use crate::shape::{Shape, Window};

#[repr(C)]
#[derive(Clone, Copy)]
struct MaxPoolParams {
    input: Address,
    bias: Address,
    output: Address,
    argmax: Address,
    count: u64,
    op: Geometry,
    slope: f32,
}
params!(MaxPoolParams, 4 addresses, 88 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct MaxPoolBackwardParams {
    d_output: Address,
    argmax: Address,
    pooled: Address,
    d_input: Address,
    d_bias: Address,
    partial: Address,
    arrived: Address,
    grid: ColumnGrid,
    op: Geometry,
    slope: f32,
}
params!(MaxPoolBackwardParams, 7 addresses, 128 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct AvgPoolParams {
    source: Address,
    target: Address,
    count: u64,
    op: Geometry,
    unused: u32,
}
params!(AvgPoolParams, 2 addresses, 72 bytes);

impl RunOn<Lowering<'_>> for MaxPool2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, input, output, argmax } = *self;
        lowering.pool_maxima((Activation::Identity, None), input, PoolEpilogue { op, output, argmax })
    }
}

impl RunOn<Lowering<'_>> for MaxPool2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, d_output, argmax, d_input, epilogue } = *self;
        let shape = op.output()?;
        let (activation, d_bias) = epilogue.map_or((Activation::Identity, None), |it| (it.activation, it.d_bias));
        let pooled = epilogue.filter(|_| activation != Activation::Identity).map(|epilogue| epilogue.output);
        let vectorised =
            lowering.vectorised(&[shape.channels], &[d_output, argmax, d_input, pooled.unwrap_or(d_output)]);
        let (kernel, rows) = match vectorised {
            true if tiles_the_input(op, shape) => ("max_pool_backward_tiles_vec", d_output.len / shape.channels),
            true => ("max_pool_backward_vec", d_input.len / shape.channels),
            false => ("max_pool_backward", d_input.len / shape.channels),
        };
        let lanes = if vectorised { lowering.vector() } else { 1 };
        let (blocks, grid) = ColumnGrid::new(rows, shape.channels, lanes)?;
        let params = MaxPoolBackwardParams {
            d_output: lowering.address(d_output),
            argmax: lowering.address(argmax),
            pooled: lowering.optional(pooled),
            d_input: lowering.address(d_input),
            d_bias: lowering.optional(d_bias),
            partial: Address::at(Buffer::Partials),
            arrived: Address::at(Buffer::BlockCounters),
            grid,
            op: Geometry::new(op.input, shape, op.window)?,
            slope: activation.code(),
        };
        lowering.launch(kernel, blocks, 0, &params);
        Ok(())
    }
}

impl RunOn<Lowering<'_>> for AvgPool2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.average("avg_pool_forward", self.input, self.output, geometry(&self.op)?);
        Ok(())
    }
}

impl RunOn<Lowering<'_>> for AvgPool2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.average("avg_pool_backward", self.d_output, self.d_input, geometry(&self.op)?);
        Ok(())
    }
}

impl RunOn<Lowering<'_>> for AdaptiveAvgPool2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.average("adaptive_avg_pool_forward", self.input, self.output, adaptive_geometry(&self.op)?);
        Ok(())
    }
}

impl RunOn<Lowering<'_>> for AdaptiveAvgPool2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.average("adaptive_avg_pool_backward", self.d_output, self.d_input, adaptive_geometry(&self.op)?);
        Ok(())
    }
}

fn geometry(op: &AvgPool2d) -> Result<Geometry> {
    Geometry::new(op.input, op.output()?, op.window)
}

fn adaptive_geometry(op: &AdaptiveAvgPool2d) -> Result<Geometry> {
    for (inputs, outputs) in [(op.input.height, op.height), (op.input.width, op.width)] {
        let fits = (inputs + 1).checked_mul(outputs + 1).is_some_and(|product| u32::try_from(product).is_ok());
        ensure!(fits, "adaptive pooling of {inputs} to {outputs} is too large for the CUDA kernel's 32-bit arithmetic");
    }
    Geometry::of_adaptive_pool(op)
}

impl Lowering<'_> {
    /// A thread for each value of the target.
    fn average(&mut self, kernel: &str, source: Span, target: Span, op: Geometry) {
        let (count, source) = (target.len as u64, self.address(source));
        let params = AvgPoolParams { source, target: self.address(target), count, op, unused: 0 };
        self.launch(kernel, grid_over(target.len), 0, &params);
    }

    /// `pool.output` = the maxima of `activation(input + bias)`.
    pub(super) fn pool_maxima(
        &mut self,
        (activation, bias): (Activation, Option<Span>),
        input: Span,
        PoolEpilogue { op, output, argmax }: PoolEpilogue,
    ) -> Result<()> {
        let shape = op.output()?;
        let params = MaxPoolParams {
            input: self.address(input),
            bias: self.optional(bias),
            output: self.address(output),
            argmax: self.optional(argmax),
            count: output.len as u64,
            op: Geometry::new(op.input, shape, op.window)?,
            slope: activation.code(),
        };
        match self.vectorised(&[shape.channels], &[input, output, argmax.unwrap_or(output)]) {
            true => self.launch("max_pool_forward_vec", grid_over(output.len / self.vector()), 0, &params),
            false => self.launch("max_pool_forward", grid_over(output.len), 0, &params),
        }
        Ok(())
    }
}

/// Whether the windows lie side by side and cover the whole input.
fn tiles_the_input(op: &MaxPool2d, output: Shape) -> bool {
    let Window { kernel, stride, padding } = op.window;
    let covers = |outputs: usize, inputs: usize| outputs * kernel == inputs;
    stride == kernel && padding == 0 && covers(output.height, op.input.height) && covers(output.width, op.input.width)
}

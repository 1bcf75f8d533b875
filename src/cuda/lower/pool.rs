//! Pooling. Max pooling also applies the bias and activation of the preceding convolution, or their gradients.

use anyhow::{Result, ensure};

use super::Lowering;
use super::bias::{Blocks, ColumnGrid};
use super::geometry::Geometry;
use super::params::params;
use crate::cuda::program::{BLOCK, Buffer};
use crate::ops::{
    Activation, AdaptiveAvgPool2d, AdaptiveAvgPool2dBackward, AdaptiveAvgPool2dForward, AvgPool2d, AvgPool2dBackward,
    AvgPool2dForward, Layer, MaxPool2d, MaxPool2dBackward, MaxPool2dForward, PoolEpilogue, RunOn, Span,
};
use crate::shape::{Shape, Window};

/// The blocks of max pooling's gradient.
const BACKWARD: Blocks = Blocks { threads: BLOCK, per_multiprocessor: 3 };

impl RunOn<Lowering<'_>> for MaxPool2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, input, output, argmax } = *self;
        lowering.max_pool_forward((Activation::Identity, None), input, PoolEpilogue { op, output, argmax })
    }
}

impl RunOn<Lowering<'_>> for MaxPool2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, d_output, argmax, d_input, epilogue } = *self;
        let shape = op.output()?;
        let (activation, d_bias) = epilogue.map_or((Activation::Identity, None), |it| (it.activation, it.d_bias));
        let pooled = epilogue.filter(|_| activation != Activation::Identity).map(|epilogue| epilogue.output);
        let spans = [d_output, argmax, d_input, pooled.unwrap_or(d_output)];
        let (mut kernel, lanes) = lowering.variant("max_pool_backward", &[shape.channels], &spans);
        let mut pixels = d_input.len / shape.channels;
        if lanes > 1 && tiles_the_input(op, shape) {
            (kernel, pixels) = ("max_pool_backward_tiles_vec".into(), d_output.len / shape.channels);
        }
        let (blocks, grid) = ColumnGrid::new(pixels, shape.channels, lanes, BACKWARD)?;
        let (partial, block_counters) = (Buffer::Partials, Buffer::BlockCounters);
        let params = params!(
            lowering.target, 120 bytes, [d_output, argmax, pooled, d_input, d_bias, partial, block_counters],
            grid: ColumnGrid, op: Geometry = Geometry::new(op.input, shape, op.window)?, slope: f32 = activation.code(),
        );
        lowering.launch(kernel, blocks, params)
    }
}

impl RunOn<Lowering<'_>> for AvgPool2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, input, output } = *self;
        lowering.average_pool("avg_pool_forward", op.input.channels, [input, output], geometry(op)?)
    }
}

impl RunOn<Lowering<'_>> for AvgPool2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, d_output, d_input } = *self;
        lowering.average_pool("avg_pool_backward", op.input.channels, [d_output, d_input], geometry(op)?)
    }
}

impl RunOn<Lowering<'_>> for AdaptiveAvgPool2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, input, output } = *self;
        lowering.average_pool("adaptive_avg_pool_forward", op.input.channels, [input, output], adaptive_geometry(op)?)
    }
}

impl RunOn<Lowering<'_>> for AdaptiveAvgPool2dBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, d_output, d_input } = *self;
        lowering.average_pool(
            "adaptive_avg_pool_backward",
            op.input.channels,
            [d_output, d_input],
            adaptive_geometry(op)?,
        )
    }
}

fn geometry(op: &AvgPool2d) -> Result<Geometry> {
    Geometry::new(op.input, op.output()?, op.window)
}

/// The geometry of adaptive pooling, whose window fields are unused.
fn adaptive_geometry(op: &AdaptiveAvgPool2d) -> Result<Geometry> {
    for (inputs, outputs) in [(op.input.height, op.height), (op.input.width, op.width)] {
        let fits = (inputs + 1).checked_mul(outputs + 1).is_some_and(|product| u32::try_from(product).is_ok());
        ensure!(fits, "adaptive pooling of {inputs} to {outputs} is too large for the CUDA kernel's 32-bit arithmetic");
    }
    Geometry::new(op.input, op.output()?, Window { kernel: 0, stride: 0, padding: 0 })
}

impl Lowering<'_> {
    /// Launches one thread per element, or per 16 bytes, of `target`.
    fn average_pool(&mut self, kernel: &str, channels: usize, [source, target]: [Span; 2], op: Geometry) -> Result<()> {
        let (kernel, lanes) = self.variant(kernel, &[channels], &[source, target]);
        let params = params!(self.target, 72 bytes, [source, target], count: u64 = target.len, op: Geometry);
        self.launch_over(kernel, target.len / lanes, params)
    }

    /// `output = max_pool(activation(input + bias))`
    pub(super) fn max_pool_forward(
        &mut self,
        (activation, bias): (Activation, Option<Span>),
        input: Span,
        PoolEpilogue { op, output, argmax }: PoolEpilogue,
    ) -> Result<()> {
        let shape = op.output()?;
        let params = params!(
            self.target, 88 bytes, [input, bias, output, argmax], count: u64 = output.len,
            op: Geometry = Geometry::new(op.input, shape, op.window)?, slope: f32 = activation.code(),
        );
        let spans = [input, output, argmax.unwrap_or(output)];
        let (kernel, lanes) = self.variant("max_pool_forward", &[shape.channels], &spans);
        self.launch_over(kernel, output.len / lanes, params)
    }
}

/// Whether the windows do not overlap and cover the whole input.
fn tiles_the_input(op: &MaxPool2d, output: Shape) -> bool {
    let Window { kernel, stride, padding } = op.window;
    let covers = |outputs: usize, inputs: usize| outputs * kernel == inputs;
    stride == kernel && padding == 0 && covers(output.height, op.input.height) && covers(output.width, op.input.width)
}

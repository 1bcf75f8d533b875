//! Pooling on CUDA; max pooling takes the bias and activation of the convolution before it along.

use anyhow::{Result, ensure};

use super::Cuda;
use super::bias::ColumnPass;
use super::conv::window_args;
use super::kernels::{Arg, u32_arg};
use crate::ops::{Activation, AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, MaxPool2dBackward, PoolEpilogue, PoolOps, Span};
use crate::shape::{Shape, Window};

impl PoolOps for Cuda {
    fn max_pool2d_forward(
        &mut self,
        op: &MaxPool2d,
        batch: usize,
        input: Span,
        output: Span,
        argmax: Option<Span>,
    ) -> Result<()> {
        self.pool_maxima(batch, (Activation::Identity, None), input, PoolEpilogue { op: *op, output, argmax })
    }

    fn max_pool2d_backward(&mut self, op: &MaxPool2d, batch: usize, spans: MaxPool2dBackward) -> Result<()> {
        let shape = op.output()?;
        let (outputs, inputs) = (batch * shape.len(), batch * op.input.len());
        let MaxPool2dBackward { d_output, argmax, d_input, epilogue } = spans;
        let (activation, d_bias) = epilogue.map_or((Activation::Identity, None), |it| (it.activation, it.d_bias));
        let pooled = epilogue.filter(|_| activation != Activation::Identity).map(|epilogue| epilogue.output);
        let vectorised = self.vectorised(&[shape.channels], &[d_output, argmax, d_input])
            && pooled.is_none_or(|pooled| self.vectorised(&[], &[pooled]));
        let tiles = vectorised && tiles_the_input(op, shape);
        let (kernel, rows) = match (tiles, vectorised) {
            (true, _) => ("max_pool_backward_tiles_vec", batch * shape.pixels()),
            (false, true) => ("max_pool_backward_vec", batch * op.input.pixels()),
            (false, false) => ("max_pool_backward", batch * op.input.pixels()),
        };
        let pass = ColumnPass::new(rows, shape.channels, if vectorised { self.vector() } else { 1 })?;
        let memory = self.memory()?;
        let mut args = vec![
            self.pointer(d_output.first(outputs))?,
            self.pointer(argmax.first(outputs))?,
            self.optional(pooled.map(|pooled| pooled.first(outputs)))?,
            self.pointer(d_input.first(inputs))?,
            self.optional(d_bias.map(|d_bias| d_bias.first(shape.channels)))?,
            Arg::Pointer(memory.partials.address()),
            Arg::Pointer(memory.arrived.address()),
            Arg::U64(rows as u64),
            pass.width,
            pass.rows_per_block,
            Arg::F32(activation.code()),
        ];
        args.extend(window_args(op.input, shape, op.window)?);
        self.kernels.launch_grid(&self.stream, kernel, pass.grid, &args)
    }

    fn avg_pool2d_forward(&mut self, op: &AvgPool2d, batch: usize, input: Span, output: Span) -> Result<()> {
        let shape = op.output()?;
        let count = batch * shape.len();
        let input = self.pointer(input.first(batch * op.input.len()))?;
        let mut args = vec![input, self.pointer(output.first(count))?, Arg::U64(count as u64)];
        args.extend(window_args(op.input, shape, op.window)?);
        self.launch("avg_pool_forward", count, &args)
    }

    fn avg_pool2d_backward(&mut self, op: &AvgPool2d, batch: usize, d_output: Span, d_input: Span) -> Result<()> {
        let shape = op.output()?;
        let count = batch * op.input.len();
        let d_output = self.pointer(d_output.first(batch * shape.len()))?;
        let mut args = vec![d_output, self.pointer(d_input.first(count))?, Arg::U64(count as u64)];
        args.extend(window_args(op.input, shape, op.window)?);
        self.launch("avg_pool_backward", count, &args)
    }

    fn adaptive_avg_pool2d_forward(
        &mut self,
        op: &AdaptiveAvgPool2d,
        batch: usize,
        input: Span,
        output: Span,
    ) -> Result<()> {
        let count = batch * op.output().len();
        let input = self.pointer(input.first(batch * op.input.len()))?;
        let mut args = vec![input, self.pointer(output.first(count))?, Arg::U64(count as u64)];
        args.extend(adaptive_args(op)?);
        self.launch("adaptive_avg_pool_forward", count, &args)
    }

    fn adaptive_avg_pool2d_backward(
        &mut self,
        op: &AdaptiveAvgPool2d,
        batch: usize,
        d_output: Span,
        d_input: Span,
    ) -> Result<()> {
        let count = batch * op.input.len();
        let d_output = self.pointer(d_output.first(batch * op.output().len()))?;
        let mut args = vec![d_output, self.pointer(d_input.first(count))?, Arg::U64(count as u64)];
        args.extend(adaptive_args(op)?);
        self.launch("adaptive_avg_pool_backward", count, &args)
    }
}

/// Height, width and channels of the input, height and width of the output.
fn adaptive_args(op: &AdaptiveAvgPool2d) -> Result<Vec<Arg>> {
    for (inputs, outputs) in [(op.input.height, op.height), (op.input.width, op.width)] {
        let fits = (inputs + 1).checked_mul(outputs + 1).is_some_and(|product| u32::try_from(product).is_ok());
        ensure!(fits, "adaptive pooling of {inputs} to {outputs} is too large for the CUDA kernel's 32-bit arithmetic");
    }
    let sizes = [op.input.height, op.input.width, op.input.channels, op.height, op.width];
    sizes.into_iter().map(u32_arg).collect()
}

impl Cuda {
    /// `pool.output` = the maxima of `activation(input + bias)`.
    pub(super) fn pool_maxima(
        &mut self,
        batch: usize,
        (activation, bias): (Activation, Option<Span>),
        input: Span,
        PoolEpilogue { op, output, argmax }: PoolEpilogue,
    ) -> Result<()> {
        let shape = op.output()?;
        let count = batch * shape.len();
        let optional = |span: Option<Span>| span.map_or(Ok(Arg::Pointer(0)), |span| self.pointer(span));
        let mut args = vec![
            self.pointer(input.first(batch * op.input.len()))?,
            optional(bias.map(|bias| bias.first(shape.channels)))?,
            self.pointer(output.first(count))?,
            optional(argmax.map(|argmax| argmax.first(count)))?,
            Arg::U64(count as u64),
            Arg::F32(activation.code()),
        ];
        args.extend(window_args(op.input, shape, op.window)?);
        let indices = argmax.unwrap_or(output);
        match self.vectorised(&[shape.channels], &[input, output, indices]) {
            true => self.launch("max_pool_forward_vec", count / self.vector(), &args),
            false => self.launch("max_pool_forward", count, &args),
        }
    }
}

/// Whether the windows lie side by side and cover the whole input.
fn tiles_the_input(op: &MaxPool2d, output: Shape) -> bool {
    let Window { kernel, stride, padding } = op.window;
    let covers = |outputs: usize, inputs: usize| outputs * kernel == inputs;
    stride == kernel && padding == 0 && covers(output.height, op.input.height) && covers(output.width, op.input.width)
}

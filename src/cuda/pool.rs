//! Pooling on CUDA.

use anyhow::Result;

use super::Cuda;
use super::conv::window_args;
use super::kernels::Arg;
use crate::ops::{AvgPool2d, BiasOps, MaxPool2d, MaxPool2dBackward, PoolOps, Span};

impl PoolOps for Cuda {
    fn max_pool2d_forward(
        &mut self,
        op: &MaxPool2d,
        batch: usize,
        input: Span,
        output: Span,
        argmax: Option<Span>,
    ) -> Result<()> {
        let shape = op.output()?;
        let count = batch * shape.len();
        let argmax = argmax.map_or(Ok(Arg::Pointer(0)), |span| self.pointer(span.first(count)))?;
        let input = self.pointer(input.first(batch * op.input.len()))?;
        let mut args = vec![input, self.pointer(output.first(count))?, argmax, Arg::U64(count as u64)];
        args.extend(window_args(op.input, shape, op.window)?);
        self.launch("max_pool_forward", count, &args)
    }

    fn max_pool2d_backward(&mut self, op: &MaxPool2d, batch: usize, spans: MaxPool2dBackward) -> Result<()> {
        let shape = op.output()?;
        let MaxPool2dBackward { d_output, argmax, d_input, epilogue } = spans;
        self.gradient_epilogue(batch * shape.pixels(), shape.channels, d_output, epilogue)?;
        let (outputs, count) = (batch * shape.len(), batch * op.input.len());
        let [d_y, argmax] = [d_output, argmax].map(|span| self.pointer(span.first(outputs)));
        let mut args = vec![d_y?, argmax?, self.pointer(d_input.first(count))?, Arg::U64(count as u64)];
        args.extend(window_args(op.input, shape, op.window)?);
        self.launch("max_pool_backward", count, &args)
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
}

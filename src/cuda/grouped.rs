//! Convolutions of several groups or with gaps on CUDA, by plain kernels.

use anyhow::Result;

use super::Cuda;
use super::kernels::{Arg, u32_arg};
use crate::ops::{Activation, BiasOps, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward};
use crate::shape::Window;

/// Blocks of a weight gradient, at most; each then does several weights.
const MOST_BLOCKS: usize = 1 << 16;

impl Cuda {
    /// A pooling comes after in another pass, and takes bias and activation along.
    pub(super) fn grouped_forward(&mut self, op: &Conv2d, batch: usize, spans: &Conv2dForward) -> Result<()> {
        let (activation, bias) = match spans.pool {
            Some(_) => (Activation::Identity, None),
            None => (spans.activation, spans.bias),
        };
        let count = batch * op.output()?.len();
        let mut args = vec![
            self.pointer(spans.input.first(batch * op.input.len()))?,
            Arg::Pointer(self.memory()?.weight_address(spans.weight)?),
            bias.map_or(Ok(Arg::Pointer(0)), |bias| self.pointer(bias.first(op.out_channels)))?,
            self.pointer(spans.output.first(count))?,
            Arg::U64(count as u64),
            Arg::F32(activation.code()),
        ];
        args.extend(geometry(op)?);
        self.launch("grouped_forward", count, &args)?;
        match spans.pool {
            Some(pool) => self.pool_maxima(batch, (spans.activation, spans.bias), spans.output, pool),
            None => Ok(()),
        }
    }

    pub(super) fn grouped_weight(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardWeight) -> Result<()> {
        let (output, count) = (op.output()?, op.weight_len());
        let mut args = vec![
            self.pointer(spans.input.first(batch * op.input.len()))?,
            self.pointer(spans.d_output.first(batch * output.len()))?,
            self.pointer(spans.d_weight.first(count))?,
            Arg::U64(count as u64),
            Arg::U64((batch * output.pixels()) as u64),
        ];
        args.extend(geometry(op)?);
        let grid = [count.min(MOST_BLOCKS) as u32, 1];
        self.kernels.launch_grid(&self.stream, "grouped_backward_weight", grid, &args)
    }

    pub(super) fn grouped_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        let count = batch * op.input.len();
        let mut args = vec![
            self.pointer(spans.d_output.first(batch * op.output()?.len()))?,
            Arg::Pointer(self.memory()?.weight_address(spans.weight)?),
            self.pointer(spans.d_input.first(count))?,
            Arg::U64(count as u64),
        ];
        args.extend(geometry(op)?);
        self.launch("grouped_backward_input", count, &args)?;
        self.gradient_epilogue(batch * op.input.pixels(), op.input.channels, spans.d_input, spans.epilogue)
    }
}

/// `struct Grouped` of `kernels/grouped.cu`.
fn geometry(op: &Conv2d) -> Result<Vec<Arg>> {
    let (input, output, Window { kernel, stride, padding }) = (op.input, op.output()?, op.window);
    let sizes = [input.height, input.width, input.channels, output.height, output.width, output.channels];
    sizes.into_iter().chain([kernel, stride, padding, op.groups, op.dilation]).map(u32_arg).collect()
}

//! Convolutions of one input channel on CUDA, without a matrix product.

use anyhow::Result;

use super::Cuda;
use super::kernels::{Arg, BLOCK, u32_arg};
use crate::ops::{Activation, Conv2d, Conv2dBackwardWeight, Conv2dForward};
use crate::shape::Window;

/// Output channels at most; `MOST_CHANNELS` in `kernels/direct.cu`.
const MOST_CHANNELS: usize = 32;

/// Blocks of a weight gradient, at most: about one for each multiprocessor of a large device.
const MOST_BLOCKS: usize = 128;

/// Pixels that a thread of a weight gradient sums itself, at least.
const LEAST_PIXELS: usize = 4;

/// Floats of all blocks' partial sums, at most.
pub(super) const MOST_PARTIALS: usize = MOST_BLOCKS * MOST_CHANNELS * 25;

/// Whether a convolution has direct kernels.
pub(super) fn applies(op: &Conv2d) -> bool {
    op.input.channels == 1 && matches!(op.window.kernel, 3 | 5) && op.out_channels <= MOST_CHANNELS
}

/// Channels that a thread of the weight gradient sums: what its registers hold.
fn channels_per_thread(op: &Conv2d) -> usize {
    if op.window.kernel == 3 { 4 } else { 1 }
}

impl Cuda {
    /// `output = activation(convolution + bias)` in one pass; a pooling comes after in another, and takes bias and
    /// activation along.
    pub(super) fn direct_forward(&mut self, op: &Conv2d, batch: usize, spans: &Conv2dForward) -> Result<()> {
        let output = op.output()?;
        let memory = self.memory()?;
        let (activation, bias) = match spans.pool {
            Some(_) => (Activation::Identity, None),
            None => (spans.activation, spans.bias),
        };
        let pixels = batch * output.pixels();
        let mut args = vec![
            self.pointer(spans.input.first(batch * op.input.len()))?,
            Arg::Pointer(memory.weight_address(spans.weight)?),
            bias.map_or(Ok(Arg::Pointer(0)), |bias| self.pointer(bias.first(output.channels)))?,
            self.pointer(spans.output.first(batch * output.len()))?,
            Arg::U64(pixels as u64),
            u32_arg(output.channels)?,
            Arg::F32(activation.code()),
        ];
        args.extend(geometry(op)?);
        let threads = pixels * output.channels.div_ceil(self.vector());
        self.launch(&format!("direct_forward_{}", op.window.kernel), threads, &args)?;
        match spans.pool {
            Some(pool) => self.pool_maxima(batch, (spans.activation, spans.bias), spans.output, pool),
            None => Ok(()),
        }
    }

    /// `d_weight`, summed over all pixels in one launch.
    pub(super) fn direct_backward_weight(
        &mut self,
        op: &Conv2d,
        batch: usize,
        spans: &Conv2dBackwardWeight,
    ) -> Result<()> {
        let output = op.output()?;
        let memory = self.memory()?;
        let pixels = batch * output.pixels();
        let width = output.channels.div_ceil(channels_per_thread(op)).next_power_of_two();
        let pixels_per_block = pixels.div_ceil(MOST_BLOCKS).max(LEAST_PIXELS * BLOCK as usize / width);
        let mut args = vec![
            self.pointer(spans.input.first(batch * op.input.len()))?,
            self.pointer(spans.d_output.first(batch * output.len()))?,
            self.pointer(spans.d_weight.first(op.weight_len()))?,
            Arg::Pointer(memory.partials.address()),
            Arg::Pointer(memory.arrived.address()),
            Arg::U64(pixels as u64),
            u32_arg(output.channels)?,
            u32_arg(width)?,
            u32_arg(pixels_per_block)?,
        ];
        args.extend(geometry(op)?);
        let kernel = format!("direct_backward_weight_{}", op.window.kernel);
        self.kernels.launch_grid(&self.stream, &kernel, [pixels.div_ceil(pixels_per_block) as u32, 1], &args)
    }
}

/// `struct Geometry` of `kernels/direct.cu`.
fn geometry(op: &Conv2d) -> Result<Vec<Arg>> {
    let (output, Window { stride, padding, .. }) = (op.output()?, op.window);
    let sizes = [op.input.height, op.input.width, output.height, output.width, stride, padding];
    sizes.into_iter().map(u32_arg).collect()
}

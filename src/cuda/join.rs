//! Joins on CUDA.

use anyhow::Result;

use super::Cuda;
use super::kernels::{Arg, u32_arg};
use crate::ops::{ChannelCopy, JoinOps, Span, Subsample};

impl JoinOps for Cuda {
    fn add_forward(&mut self, len: usize, a: Span, b: Span, output: Span) -> Result<()> {
        let [a, b, output] = [a, b, output].map(|span| self.pointer(span.first(len)));
        let args = [a?, b?, output?, Arg::U64(len as u64)];
        self.launch("add_forward", len.div_ceil(self.vector()), &args)
    }

    fn accumulate(&mut self, len: usize, term: Span, sum: Span) -> Result<()> {
        let args = [self.pointer(sum.first(len))?, self.pointer(term.first(len))?, Arg::U64(len as u64)];
        self.launch("accumulate", len.div_ceil(self.vector()), &args)
    }

    fn copy(&mut self, len: usize, source: Span, target: Span) -> Result<()> {
        let args = [self.pointer(source.first(len))?, self.pointer(target.first(len))?, Arg::U64(len as u64)];
        self.launch("copy", len.div_ceil(self.vector()), &args)
    }

    fn copy_channels(&mut self, op: &ChannelCopy, batch: usize, source: Span, target: Span) -> Result<()> {
        let pixels = batch * op.pixels;
        let from = self.pointer(source.first(pixels * op.source_channels))?;
        let to = self.pointer(target.first(pixels * op.target_channels))?;
        let ways = [op.channels, op.source_channels, op.source_offset, op.target_channels, op.target_offset];
        let mut args = vec![from, to, Arg::U64(pixels as u64)];
        for way in ways {
            args.push(u32_arg(way)?);
        }
        match self.vectorised(&ways, &[source, target]) {
            true => self.launch("copy_channels_vec", pixels * op.channels / self.vector(), &args),
            false => self.launch("copy_channels", pixels * op.channels, &args),
        }
    }

    fn subsample_forward(&mut self, op: &Subsample, batch: usize, input: Span, output: Span) -> Result<()> {
        let (from, to) = (input.first(batch * op.input.len()), output.first(batch * op.output().len()));
        self.launch_subsample("subsample_forward", op, from, to)
    }

    fn subsample_backward(&mut self, op: &Subsample, batch: usize, d_output: Span, d_input: Span) -> Result<()> {
        let (from, to) = (d_output.first(batch * op.output().len()), d_input.first(batch * op.input.len()));
        self.launch_subsample("subsample_backward", op, from, to)
    }
}

impl Cuda {
    /// One thread for each value that is written.
    fn launch_subsample(&mut self, kernel: &str, op: &Subsample, source: Span, target: Span) -> Result<()> {
        let (input, output) = (op.input, op.output());
        let mut args = vec![self.pointer(source)?, self.pointer(target)?, Arg::U64(target.len as u64)];
        let sizes = [input.height, input.width, input.channels, output.height, output.width, output.channels];
        for size in sizes.into_iter().chain([op.stride, op.first_channel()]) {
            args.push(u32_arg(size)?);
        }
        self.launch(kernel, target.len, &args)
    }
}

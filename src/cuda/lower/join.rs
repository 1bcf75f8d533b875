//! Joins.

use anyhow::Result;

use super::geometry::Geometry;
use super::{Lowering, u32_of};
use crate::cuda::program::{Address, params};
use crate::ops::{Add, CopyBuffer, CopyChannels, RunOn, Span, Subsample, SubsampleBackward, SubsampleForward};

params!(AddParams, 32 bytes, [left, right, output], count: u64);
params!(CopyParams, 24 bytes, [source, target], count: u64);
params!(
    CopyChannelsParams, 48 bytes,
    [source, target],
    pixels: u64, channels: u32, source_stride: u32, source_offset: u32, target_stride: u32, target_offset: u32
);
params!(SubsampleParams, 72 bytes, [source, target], count: u64, op: Geometry, first_channel: u32);

impl RunOn<Lowering<'_>> for Add {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let [left, right, output] = [self.a, self.b, self.output].map(|span| lowering.address(span));
        let params = AddParams { left, right, output, count: self.output.len as u64 };
        lowering.launch_over("add_forward", self.output.len.div_ceil(lowering.vector()), &params)
    }
}

impl RunOn<Lowering<'_>> for CopyBuffer {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let [source, target] = [self.input, self.output].map(|span| lowering.address(span));
        let params = CopyParams { source, target, count: self.output.len as u64 };
        lowering.launch_over("copy", self.output.len.div_ceil(lowering.vector()), &params)
    }
}

impl RunOn<Lowering<'_>> for CopyChannels {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let op = &self.op;
        let pixels = self.input.len / op.source_channels;
        let lengths = [op.channels, op.source_channels, op.source_offset, op.target_channels, op.target_offset];
        let params = CopyChannelsParams {
            source: lowering.address(self.input),
            target: lowering.address(self.output),
            pixels: pixels as u64,
            channels: u32_of(op.channels)?,
            source_stride: u32_of(op.source_channels)?,
            source_offset: u32_of(op.source_offset)?,
            target_stride: u32_of(op.target_channels)?,
            target_offset: u32_of(op.target_offset)?,
        };
        let (kernel, lanes) = lowering.form("copy_channels", &lengths, &[self.input, self.output]);
        lowering.launch_over(kernel, pixels * op.channels / lanes, &params)
    }
}

impl RunOn<Lowering<'_>> for SubsampleForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.subsample("subsample_forward", &self.op, self.input, self.output)
    }
}

impl RunOn<Lowering<'_>> for SubsampleBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.subsample("subsample_backward", &self.op, self.d_output, self.d_input)
    }
}

impl Lowering<'_> {
    /// One thread for each value that is written.
    fn subsample(&mut self, kernel: &str, op: &Subsample, source: Span, target: Span) -> Result<()> {
        let params = SubsampleParams {
            source: self.address(source),
            target: self.address(target),
            count: target.len as u64,
            op: Geometry::of_subsample(op)?,
            first_channel: u32_of(op.first_channel())?,
        };
        self.launch_over(kernel, target.len, &params)
    }
}

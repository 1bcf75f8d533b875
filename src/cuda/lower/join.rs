//! Joins.

use anyhow::Result;

use super::geometry::Geometry;
use super::{Lowering, u32_of};
use crate::cuda::program::{Address, grid_over, params};
use crate::ops::{Add, CopyBuffer, CopyChannels, RunOn, Span, Subsample, SubsampleBackward, SubsampleForward};

#[repr(C)]
#[derive(Clone, Copy)]
struct AddParams {
    left: Address,
    right: Address,
    output: Address,
    count: u64,
}
params!(AddParams, 3 addresses, 32 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct CopyParams {
    source: Address,
    target: Address,
    count: u64,
}
params!(CopyParams, 2 addresses, 24 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct CopyChannelsParams {
    source: Address,
    target: Address,
    pixels: u64,
    channels: u32,
    source_stride: u32,
    source_offset: u32,
    target_stride: u32,
    target_offset: u32,
    unused: u32,
}
params!(CopyChannelsParams, 2 addresses, 48 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct SubsampleParams {
    source: Address,
    target: Address,
    count: u64,
    op: Geometry,
    first_channel: u32,
}
params!(SubsampleParams, 2 addresses, 72 bytes);

impl RunOn<Lowering<'_>> for Add {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let [left, right, output] = [self.a, self.b, self.output].map(|span| lowering.address(span));
        let params = AddParams { left, right, output, count: self.output.len as u64 };
        lowering.launch("add_forward", grid_over(self.output.len.div_ceil(lowering.vector())), 0, &params);
        Ok(())
    }
}

impl RunOn<Lowering<'_>> for CopyBuffer {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let [source, target] = [self.input, self.output].map(|span| lowering.address(span));
        let params = CopyParams { source, target, count: self.output.len as u64 };
        lowering.launch("copy", grid_over(self.output.len.div_ceil(lowering.vector())), 0, &params);
        Ok(())
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
            unused: 0,
        };
        let count = pixels * op.channels;
        match lowering.vectorised(&lengths, &[self.input, self.output]) {
            true => lowering.launch("copy_channels_vec", grid_over(count / lowering.vector()), 0, &params),
            false => lowering.launch("copy_channels", grid_over(count), 0, &params),
        }
        Ok(())
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
        self.launch(kernel, grid_over(target.len), 0, &params);
        Ok(())
    }
}

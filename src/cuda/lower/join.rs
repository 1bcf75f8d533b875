//! Joins and copies: addition, channel copies for concatenation, and subsampling shortcuts.

use anyhow::Result;

use super::Lowering;
use super::geometry::Geometry;
use super::params::params;
use crate::ops::{Add, CopyBuffer, CopyChannels, Layer, RunOn, Span, Subsample, SubsampleBackward, SubsampleForward};
use crate::shape::Window;

impl RunOn<Lowering<'_>> for Add {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { a, b, output } = *self;
        let params = params!(lowering.target, 32 bytes, [left = a, right = b, output], count: u64 = output.len);
        lowering.launch_over("add_forward", output.len.div_ceil(lowering.vector()), params)
    }
}

impl RunOn<Lowering<'_>> for CopyBuffer {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { input, output } = *self;
        let params = params!(lowering.target, 24 bytes, [source = input, target = output], count: u64 = output.len);
        lowering.launch_over("copy", output.len.div_ceil(lowering.vector()), params)
    }
}

impl RunOn<Lowering<'_>> for CopyChannels {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { ref op, input, output } = *self;
        let pixels = input.len / op.source_channels;
        let lengths = [op.channels, op.source_channels, op.source_offset, op.target_channels, op.target_offset];
        let params = params!(
            lowering.target, 48 bytes, [source = input, target = output], pixels: u64, channels: u32 = op.channels,
            source_stride: u32 = op.source_channels, source_offset: u32 = op.source_offset,
            target_stride: u32 = op.target_channels, target_offset: u32 = op.target_offset,
        );
        let (kernel, lanes) = lowering.variant("copy_channels", &lengths, &[input, output]);
        lowering.launch_over(kernel, pixels * op.channels / lanes, params)
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
    /// Launches one thread per element of `target`.
    fn subsample(&mut self, kernel: &str, op: &Subsample, source: Span, target: Span) -> Result<()> {
        let window = Window { kernel: 1, stride: op.stride, padding: 0 };
        let params = params!(
            self.target, 72 bytes, [source, target], count: u64 = target.len,
            op: Geometry = Geometry::new(op.input, op.output()?, window)?, first_channel: u32 = op.first_channel(),
        );
        self.launch_over(kernel, target.len, params)
    }
}

//! The memory layout of a convolution's padded input.

use anyhow::Result;

use super::runtime::scratch::{self, Buffer};
use super::{Instructions, Real};
use crate::ops::Conv2d;
use crate::shape::Shape;

/// A convolution and the layout of its padded input.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub op: Conv2d,
    pub output: Shape,
    /// Values of one kernel row, which are contiguous in NHWC.
    pub row_len: usize,
    /// Values of one padded input line.
    pub line: usize,
    /// Whether an input value is a pair of channels.
    pub pairs: bool,
}

impl Geometry {
    pub fn new(op: &Conv2d) -> Result<Self> {
        let line = (op.input.width + 2 * op.window.padding) * op.input.channels;
        Ok(Self { op: *op, output: op.output()?, row_len: op.window.kernel * op.input.channels, line, pairs: false })
    }

    /// The same with pairs of channels as input values.
    pub fn of_pairs(op: &Conv2d) -> Result<Self> {
        let input = Shape { channels: op.input.channels / 2, ..op.input };
        Ok(Self { pairs: true, ..Self::new(&Conv2d { input, ..*op })? })
    }

    /// Distances in the padded input between the windows of neighbouring output lines, and of neighbouring output
    /// pixels.
    pub fn strides(&self) -> (usize, usize) {
        (self.op.window.stride * self.line, self.op.window.stride * self.op.input.channels)
    }

    /// Calls `body` with the padded input lines that output lines `first..first + lines` of a sample depend on.
    pub fn with_padded<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        first: usize,
        lines: usize,
        body: impl FnOnce(&[f32]),
    ) {
        let (window, input) = (self.op.window, self.op.input);
        let begin = first * window.stride;
        let count = (lines - 1) * window.stride + self.op.dilated_window().kernel;
        if window.padding == 0 {
            return scratch::with_floats(set, &x[begin * self.line..][..count * self.line], Buffer::Padded, body);
        }
        scratch::with(Buffer::Padded, count * self.line, |padded| {
            padded.fill(0.0);
            let width = input.width * input.channels;
            for (index, padded) in padded.chunks_exact_mut(self.line).enumerate() {
                let y = (begin + index).checked_sub(window.padding).filter(|&y| y < input.height);
                if let Some(y) = y {
                    let padded = &mut padded[window.padding * input.channels..][..width];
                    set.run(scratch::ToFloats { values: &x[y * width..][..width], floats: padded });
                }
            }
            body(padded);
        });
    }

    /// Copies a sample without its padding.
    pub fn without_padding<R: Real>(&self, set: Instructions, padded: &[f32], x: &mut [R]) {
        let (input, padding) = (self.op.input, self.op.window.padding);
        let width = input.width * input.channels;
        let lines = padded.chunks_exact(self.line).skip(padding);
        for (x, line) in x.chunks_exact_mut(width).zip(lines) {
            set.run(scratch::FromFloats { floats: &line[padding * input.channels..][..width], values: x });
        }
    }
}

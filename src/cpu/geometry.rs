//! The memory layout of a convolution's padded input.

use anyhow::Result;

use super::runtime::scratch::{self, Buffer};
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
}

impl Geometry {
    pub fn new(op: &Conv2d) -> Result<Self> {
        let line = (op.input.width + 2 * op.window.padding) * op.input.channels;
        Ok(Self { op: *op, output: op.output()?, row_len: op.window.kernel * op.input.channels, line })
    }

    /// Distances in the padded input between the windows of neighbouring output lines, and of neighbouring output
    /// pixels.
    pub fn strides(&self) -> (usize, usize) {
        (self.op.window.stride * self.line, self.op.window.stride * self.op.input.channels)
    }

    /// Calls `body` with the padded input lines that output lines `first..first + lines` of a sample depend on.
    pub fn with_padded<R>(&self, x: &[f32], first: usize, lines: usize, body: impl FnOnce(&[f32]) -> R) -> R {
        let (window, input) = (self.op.window, self.op.input);
        let begin = first * window.stride;
        if window.padding == 0 {
            return body(&x[begin * self.line..]);
        }
        let count = (lines - 1) * window.stride + self.op.dilated_window().kernel;
        scratch::with(Buffer::Padded, count * self.line, |padded| {
            padded.fill(0.0);
            let width = input.width * input.channels;
            for (index, padded) in padded.chunks_exact_mut(self.line).enumerate() {
                let y = (begin + index).checked_sub(window.padding).filter(|&y| y < input.height);
                if let Some(y) = y {
                    padded[window.padding * input.channels..][..width].copy_from_slice(&x[y * width..][..width]);
                }
            }
            body(padded)
        })
    }
}

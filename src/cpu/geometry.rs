//! Where the values of a convolution's padded input lie.

use anyhow::Result;

use super::runtime::scratch::{self, Buffer};
use crate::ops::Conv2d;
use crate::shape::Shape;

/// A convolution's padded input, and where its lines and pixels lie.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub op: Conv2d,
    pub output: Shape,
    /// Values of one kernel row, contiguous in NHWC.
    pub run: usize,
    /// Values of one padded input line.
    pub line: usize,
}

impl Geometry {
    pub fn new(op: &Conv2d) -> Result<Self> {
        let line = (op.input.width + 2 * op.window.padding) * op.input.channels;
        Ok(Self { op: *op, output: op.output()?, run: op.window.kernel * op.input.channels, line })
    }

    /// From one output line to the next, and from one output pixel to the next, in the padded input.
    pub fn steps(&self) -> (usize, usize) {
        (self.op.window.stride * self.line, self.op.window.stride * self.op.input.channels)
    }

    /// Gives `body` the padded input lines that output lines `first..first + lines` of a sample read.
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

//! Shapes of one sample, and all output-size arithmetic of the program.

use std::fmt;

use anyhow::{Result, bail, ensure};

/// The shape of one sample's activation, laid out `[height][width][channels]` in memory (NHWC with the batch in
/// front). A flat vector of `n` features is `1 × 1 × n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Shape {
    pub const fn new(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels }
    }

    /// A vector of `features` values.
    pub const fn flat(features: usize) -> Self {
        Self::new(1, 1, features)
    }

    /// Values in one sample.
    pub const fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of one sample, `height · width`.
    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// `channels × height × width`, in PyTorch's order; a vector prints as its length.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.height == 1 && self.width == 1 {
            return write!(f, "{}", self.channels);
        }
        write!(f, "{}×{}×{}", self.channels, self.height, self.width)
    }
}

/// A sliding window, the same in both directions, as PyTorch's convolution and pooling define it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    pub kernel: usize,
    pub stride: usize,
    /// Rows and columns of padding added on each side.
    pub padding: usize,
}

impl Window {
    /// Positions of the window along one axis of `size`: `⌊(size + 2·padding − kernel) / stride⌋ + 1`
    /// (`torch.nn.Conv2d`, with dilation 1).
    ///
    /// # Errors
    /// If kernel or stride is zero, or the window is larger than the padded input.
    pub fn positions(&self, size: usize) -> Result<usize> {
        ensure!(self.kernel > 0, "kernel must be at least 1");
        ensure!(self.stride > 0, "stride must be at least 1");
        let padded = size + 2 * self.padding;
        if padded < self.kernel {
            bail!("a window of {} does not fit an input of {size} with padding {}", self.kernel, self.padding);
        }
        Ok((padded - self.kernel) / self.stride + 1)
    }

    /// Like [`Window::positions`], but the last window may extend beyond the padding if it starts inside the input or
    /// the leading padding (`ceil_mode=True` of PyTorch's pooling).
    ///
    /// # Errors
    /// The same as [`Window::positions`].
    pub fn positions_rounded_up(&self, size: usize) -> Result<usize> {
        let (covered, padded) = (self.positions(size)?, size + 2 * self.padding);
        let more = !(padded - self.kernel).is_multiple_of(self.stride);
        Ok(covered + usize::from(more && covered * self.stride < size + self.padding))
    }

    /// Output height and width for `input`.
    pub fn output(&self, input: Shape) -> Result<(usize, usize)> {
        Ok((self.positions(input.height)?, self.positions(input.width)?))
    }
}

/// The inputs that adaptive pooling averages for output `index`, as in PyTorch:
/// `⌊index · inputs / outputs⌋ .. ⌈(index + 1) · inputs / outputs⌉`. Neighbouring windows may overlap.
pub fn adaptive_window(index: usize, inputs: usize, outputs: usize) -> std::ops::Range<usize> {
    index * inputs / outputs..((index + 1) * inputs).div_ceil(outputs)
}

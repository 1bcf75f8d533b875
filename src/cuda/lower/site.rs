//! Convolutions and linear layers as far as their speed depends on it: what an algorithm is chosen for.

use std::fmt;

use crate::ops::{Conv2d, Linear, Precision};
use crate::shape::{Shape, Window};

/// Which product of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) enum Direction {
    Forward,
    BackwardWeight,
    BackwardInput,
}

/// An operator's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct Site {
    pub(super) direction: Direction,
    pub(super) op: Conv2d,
    pub(super) batch: usize,
    pub(super) linear: bool,
    /// Whether pooling, or the layer before's activation and bias, ends it; of a weight gradient, whether it is the bias's too.
    pub(super) epilogue: bool,
    /// Whether the mask of a ReLU may be left, or used.
    pub(super) mask: bool,
    pub(super) precision: Precision,
}

/// The convolution that a linear layer is.
pub(super) fn as_conv(op: &Linear) -> Conv2d {
    let window = Window { kernel: 1, stride: 1, padding: 0 };
    Conv2d::new(Shape::new(1, 1, op.in_features), op.out_features, window)
}

/// As in files.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::BackwardWeight => "backward_weight",
            Direction::BackwardInput => "backward_input",
        };
        let Conv2d { input, out_channels, window: Window { kernel, stride, padding }, .. } = self.op;
        match self.linear {
            true => write!(f, "linear_{direction} {} to {out_channels}", input.channels)?,
            false => write!(f, "conv2d_{direction} {input} to {out_channels} k{kernel} s{stride} p{padding}")?,
        }
        write!(f, ", batch {}", self.batch)?;
        f.write_str(if self.epilogue { ", with epilogue" } else { "" })?;
        // The mask's name in runs and caches that there are.
        f.write_str(if self.mask { ", with the ReLU mask" } else { "" })?;
        write!(f, ", {}", self.precision)
    }
}

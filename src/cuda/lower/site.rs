//! Sites: the properties of a convolution or linear layer that its speed depends on. An algorithm is chosen for each
//! site.

use std::fmt;

use crate::cuda::convolution::Direction;
use crate::ops::{Conv2d, Linear, Precision};
use crate::shape::{Shape, Window};

/// An operator with its shape, batch, epilogue and precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct Site {
    pub(super) direction: Direction,
    pub(super) op: Conv2d,
    pub(super) batch: usize,
    pub(super) linear: bool,
    /// What follows the product; empty if nothing does. `with epilogue` is pooling in a forward pass, the activation's
    /// gradient and bias gradient of the preceding layer in an input gradient, and the bias gradient in a weight
    /// gradient. `sum` adds what other operators contributed to the gradient; `norm` is the sums of a
    /// batch normalisation's gradient.
    pub(super) epilogue: &'static str,
    /// Whether the product may write the mask of a ReLU, or read it.
    pub(super) mask: bool,
    pub(super) precision: Precision,
}

/// A linear layer as a 1×1 convolution of one pixel.
pub(super) fn as_conv(op: &Linear) -> Conv2d {
    let window = Window { kernel: 1, stride: 1, padding: 0 };
    Conv2d::new(Shape::new(1, 1, op.in_features), op.out_features, window)
}

/// The site's name in files: `config.toml` and the tuning cache.
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
        let Conv2d { groups, dilation, .. } = self.op;
        for (name, number) in [("groups", groups), ("dilation", dilation)] {
            if number > 1 {
                write!(f, ", {name} {number}")?;
            }
        }
        write!(f, ", batch {}", self.batch)?;
        let separator = if self.epilogue.is_empty() { "" } else { ", " };
        write!(f, "{separator}{}", self.epilogue)?;
        // Existing runs and caches contain this name.
        f.write_str(if self.mask { ", with the ReLU mask" } else { "" })?;
        write!(f, ", {}", self.precision)
    }
}

//! The window of an operator over an image, as kernels take it.

use anyhow::Result;

use super::u32_of;
use crate::cuda::program::Plain;
use crate::ops::{AdaptiveAvgPool2d, Conv2d, Subsample};
use crate::shape::{Shape, Window};

/// `Geometry` of `kernels/geometry.cuh`, field by field.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub height: u32,
    pub width: u32,
    pub channels: u32,
    pub out_height: u32,
    pub out_width: u32,
    pub out_channels: u32,
    pub kernel: u32,
    pub stride: u32,
    pub padding: u32,
    pub groups: u32,
    pub dilation: u32,
}

const _: () = assert!(size_of::<Geometry>() == 44);

// SAFETY: numbers of one size.
unsafe impl Plain for Geometry {}

impl Geometry {
    /// Of pooling, and whatever else has a window without groups and dilation.
    ///
    /// # Errors
    /// Where a size is too large for a kernel.
    pub fn new(input: Shape, output: Shape, window: Window) -> Result<Self> {
        Ok(Self {
            height: u32_of(input.height)?,
            width: u32_of(input.width)?,
            channels: u32_of(input.channels)?,
            out_height: u32_of(output.height)?,
            out_width: u32_of(output.width)?,
            out_channels: u32_of(output.channels)?,
            kernel: u32_of(window.kernel)?,
            stride: u32_of(window.stride)?,
            padding: u32_of(window.padding)?,
            groups: 1,
            dilation: 1,
        })
    }

    pub fn of_conv(op: &Conv2d) -> Result<Self> {
        let plain = Self::new(op.input, op.output()?, op.window)?;
        Ok(Self { groups: u32_of(op.groups)?, dilation: u32_of(op.dilation)?, ..plain })
    }

    pub fn of_subsample(op: &Subsample) -> Result<Self> {
        Self::new(op.input, op.output(), Window { kernel: 1, stride: op.stride, padding: 0 })
    }

    /// Without a window.
    pub fn of_adaptive_pool(op: &AdaptiveAvgPool2d) -> Result<Self> {
        Self::new(op.input, op.output(), Window { kernel: 0, stride: 0, padding: 0 })
    }
}

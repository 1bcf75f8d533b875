//! The geometry of a sliding window over an image, as a kernel parameter.

use anyhow::Result;

use super::params::{Pod, fit};
use crate::ops::Conv2d;
use crate::shape::{Shape, Window};

/// `struct Geometry` in `kernels/geometry.cuh`: height, width and channels of the input and of the output, then kernel,
/// stride, padding, groups and dilation.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry([u32; 11]);

const _: () = assert!(size_of::<Geometry>() == 44);

// SAFETY: numbers without padding bytes.
unsafe impl Pod for Geometry {}

impl Geometry {
    /// The geometry of pooling and other operators without groups and dilation.
    ///
    /// # Errors
    /// If a size exceeds 32 bits.
    pub fn new(input: Shape, output: Shape, window: Window) -> Result<Self> {
        Self::grouped(input, output, window, [1, 1])
    }

    pub fn of_conv(op: &Conv2d) -> Result<Self> {
        Self::grouped(op.input, op.output()?, op.window, [op.groups, op.dilation])
    }

    fn grouped(input: Shape, output: Shape, window: Window, groups_and_dilation: [usize; 2]) -> Result<Self> {
        let [input, output] = [input, output].map(|shape| [shape.height, shape.width, shape.channels]);
        let window = [window.kernel, window.stride, window.padding];
        let sizes = [input, output, window].into_iter().flatten().chain(groups_and_dilation);
        let mut geometry = [0; 11];
        for (field, size) in geometry.iter_mut().zip(sizes) {
            *field = fit(size)?;
        }
        Ok(Self(geometry))
    }
}

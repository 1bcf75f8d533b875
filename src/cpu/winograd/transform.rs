//! The transforms of Winograd's F(2×2, 3×3), from tiles of an image to sixteen planes and back, for each instruction
//! set.

use super::maps::{
    Input, InputGradient, Output, OutputGradient, TransformMatrix, Weight, WeightGradient, transform_2d,
};
use crate::cpu::Instructions;
use crate::cpu::gemm::vector::{Portable, Vector};

/// Values per transformed tile; each goes to its own plane.
pub(in crate::cpu) const PLANES: usize = 16;

/// The number of channels must be a multiple of this: the lanes of the widest instruction set.
pub(in crate::cpu) const CHANNELS: usize = 16;

/// The layout of a row of tiles in an image and in the planes. All strides are in floats.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cpu) struct Tiles {
    pub count: usize,
    pub channels: usize,
    /// Strides of lines, pixels and tiles in the image.
    pub line: usize,
    pub pixel: usize,
    pub tile: usize,
    /// Strides of planes, and of tiles within a plane.
    pub plane: usize,
    pub row: usize,
}

/// A transform from an image to the planes.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) enum Transform {
    /// The 4×4 input pixels of an output tile, `Bᵀ d B`.
    Input,
    /// The transpose of [`InverseTransform::Output`], `A d Aᵀ`.
    OutputGradient,
    /// A 3×3 kernel, `G g Gᵀ`.
    Weight,
}

/// A transform from the planes to an image.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) enum InverseTransform<'a> {
    /// 2×2 output pixels, `Aᵀ m A`, optionally followed by a bias and ReLU.
    Output { bias: &'a [f32], relu: bool },
    /// The transpose of [`Transform::Input`], added to the existing values.
    InputGradient,
    /// The transpose of [`Transform::Weight`].
    WeightGradient,
}

impl Tiles {
    pub fn transform(&self, set: Instructions, transform: Transform, image: &[f32], planes: &mut [f32]) {
        let side = match transform {
            Transform::Input => 4,
            Transform::OutputGradient => 2,
            Transform::Weight => 3,
        };
        self.check(side, image.len(), planes.len());
        let (image, planes) = (image.as_ptr(), planes.as_mut_ptr());
        // SAFETY: the bounds were checked above, and support for the instructions when the backend was created.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.transform_avx512(transform, image, planes),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.transform_avx2(transform, image, planes),
                _ => self.transform_with::<Portable>(transform, image, planes),
            }
        }
    }

    pub fn inverse_transform(&self, set: Instructions, inverse: InverseTransform, planes: &[f32], image: &mut [f32]) {
        let side = match inverse {
            InverseTransform::Output { bias, .. } => {
                assert!(bias.is_empty() || bias.len() >= self.channels, "{} bias values for {self:?}", bias.len());
                2
            }
            InverseTransform::InputGradient => 4,
            InverseTransform::WeightGradient => 3,
        };
        self.check(side, image.len(), planes.len());
        let (image, planes) = (image.as_mut_ptr(), planes.as_ptr());
        // SAFETY: the bounds were checked above, and support for the instructions when the backend was created.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.inverse_avx512(inverse, planes, image),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.inverse_avx2(inverse, planes, image),
                _ => self.inverse_with::<Portable>(inverse, planes, image),
            }
        }
    }

    /// Asserts that tiles of `side` × `side` pixels lie within the image, and their transforms within the planes.
    pub fn check(&self, side: usize, image: usize, planes: usize) {
        assert!(
            self.count > 0 && self.channels.is_multiple_of(CHANNELS),
            "the channels do not fill whole vectors: {self:?}"
        );
        let (tiles, pixels) = (self.count - 1, side - 1);
        let end = tiles * self.tile + pixels * (self.line + self.pixel) + self.channels;
        assert!(end <= image, "{self:?} extends past the {image} values of its image");
        let end = (PLANES - 1) * self.plane + tiles * self.row + self.channels;
        assert!(end <= planes, "{self:?} extends past the {planes} values of its planes");
    }

    /// # Safety
    /// See [`Tiles::transform_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn transform_avx2(&self, transform: Transform, image: *const f32, planes: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.transform_with::<crate::cpu::gemm::vector::Avx2>(transform, image, planes) }
    }

    /// # Safety
    /// See [`Tiles::transform_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn transform_avx512(&self, transform: Transform, image: *const f32, planes: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.transform_with::<crate::cpu::gemm::vector::Avx512>(transform, image, planes) }
    }

    /// # Safety
    /// See [`Tiles::inverse_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_avx2(&self, inverse: InverseTransform, planes: *const f32, image: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.inverse_with::<crate::cpu::gemm::vector::Avx2>(inverse, planes, image) }
    }

    /// # Safety
    /// See [`Tiles::inverse_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn inverse_avx512(&self, inverse: InverseTransform, planes: *const f32, image: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.inverse_with::<crate::cpu::gemm::vector::Avx512>(inverse, planes, image) }
    }

    /// # Safety
    /// The tiles must lie within the image and the planes, and the machine must support `V`'s instructions.
    #[inline(always)]
    unsafe fn transform_with<V: Vector>(&self, transform: Transform, image: *const f32, planes: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe {
            match transform {
                Transform::Input => self.transform_by::<V, Input>(image, planes),
                Transform::OutputGradient => self.transform_by::<V, OutputGradient>(image, planes),
                Transform::Weight => self.transform_by::<V, Weight>(image, planes),
            }
        }
    }

    /// # Safety
    /// See [`Tiles::transform_with`]; a bias must have one value per channel.
    #[inline(always)]
    unsafe fn inverse_with<V: Vector>(&self, inverse: InverseTransform, planes: *const f32, image: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe {
            match inverse {
                InverseTransform::Output { bias, relu } => {
                    let bias = if bias.is_empty() { std::ptr::null() } else { bias.as_ptr() };
                    self.inverse_by::<V, Output>(planes, image, bias, relu);
                }
                InverseTransform::InputGradient => {
                    self.inverse_by::<V, InputGradient>(planes, image, std::ptr::null(), false);
                }
                InverseTransform::WeightGradient => {
                    self.inverse_by::<V, WeightGradient>(planes, image, std::ptr::null(), false);
                }
            }
        }
    }

    /// # Safety
    /// See [`Tiles::transform_with`].
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "vectors must not be passed to functions without the instruction set"
    )]
    unsafe fn transform_by<V: Vector, M: TransformMatrix>(&self, image: *const f32, planes: *mut f32) {
        // SAFETY: only elements of the tiles are accessed, for which the caller upholds the contract.
        unsafe {
            for index in 0..self.count {
                for channel in (0..self.channels).step_by(V::LANES) {
                    let image = image.add(index * self.tile + channel);
                    let mut values = [[V::splat(0.0); 4]; 4];
                    for y in 0..M::FROM {
                        for x in 0..M::FROM {
                            values[y][x] = V::load(image.add(y * self.line + x * self.pixel));
                        }
                    }
                    let values = transform_2d::<V, M>(values);
                    let planes = planes.add(index * self.row + channel);
                    for y in 0..4 {
                        for x in 0..4 {
                            values[y][x].store(planes.add((4 * y + x) * self.plane));
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// See [`Tiles::inverse_with`].
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "vectors must not be passed to functions without the instruction set"
    )]
    unsafe fn inverse_by<V: Vector, M: TransformMatrix>(
        &self,
        planes: *const f32,
        image: *mut f32,
        bias: *const f32,
        relu: bool,
    ) {
        // SAFETY: only elements of the tiles are accessed, for which the caller upholds the contract.
        unsafe {
            for index in 0..self.count {
                for channel in (0..self.channels).step_by(V::LANES) {
                    let planes = planes.add(index * self.row + channel);
                    let mut values = [[V::splat(0.0); 4]; 4];
                    for y in 0..4 {
                        for x in 0..4 {
                            values[y][x] = V::load(planes.add((4 * y + x) * self.plane));
                        }
                    }
                    let values = transform_2d::<V, M>(values);
                    let image = image.add(index * self.tile + channel);
                    let bias = if bias.is_null() { V::splat(0.0) } else { V::load(bias.add(channel)) };
                    for y in 0..M::TO {
                        for x in 0..M::TO {
                            let (mut value, image) = (values[y][x], image.add(y * self.line + x * self.pixel));
                            if M::ACCUMULATES {
                                value = value.add(V::load(image));
                            }
                            if M::HAS_EPILOGUE {
                                value = value.add(bias);
                                value = if relu { value.relu() } else { value };
                            }
                            value.store(image);
                        }
                    }
                }
            }
        }
    }
}

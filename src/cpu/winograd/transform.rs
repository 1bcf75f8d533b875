//! The transforms of Winograd's F(4×4, 3×3), from tiles of an image to 36 planes and back, for each instruction set.

use super::maps::{
    Clip, FlippedWeight, Input, Output, OutputGradient, SIDE, TILE, TransformMatrix, Weight, WeightGradient,
    transform_column, transform_rows,
};
use crate::cpu::gemm::vector::{Portable, Vector};
use crate::cpu::{Instructions, Real};

/// Values per transformed tile; each goes to its own plane.
pub(in crate::cpu) const PLANES: usize = SIDE * SIDE;

/// The number of channels must be a multiple of this: the lanes of the widest instruction set.
pub(in crate::cpu) const CHANNELS: usize = 16;

/// The layout of a row of tiles in an image and in the planes. All strides are in floats.
#[derive(Clone, Copy, Debug)]
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
    /// The part of each tile that lies within the image.
    pub clip: Clip,
}

/// A transform from an image to the planes.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) enum Transform {
    /// The 6×6 input pixels of an output tile, `Bᵀ d B`.
    Input,
    /// The transpose of [`InverseTransform::Output`], `A d Aᵀ`.
    OutputGradient,
    /// A 3×3 kernel, `G g Gᵀ`.
    Weight,
    /// The same for the kernel with its rows and columns in reverse order.
    FlippedWeight,
}

/// A transform from the planes to an image.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) enum InverseTransform<'a> {
    /// 4×4 output pixels, `Aᵀ m A`, optionally followed by a bias and ReLU.
    Output { bias: &'a [f32], relu: bool },
    /// The transpose of [`Transform::Weight`].
    WeightGradient,
}

impl Tiles {
    /// Transforms the tiles, of which the first begins at value `first` of `image`. That may be outside, as far as the
    /// tiles are clipped.
    pub fn transform<R: Real>(
        &self,
        set: Instructions,
        transform: Transform,
        image: &[R],
        first: isize,
        planes: &mut [f32],
    ) {
        let side = match transform {
            Transform::Input => SIDE,
            Transform::OutputGradient => TILE,
            Transform::Weight | Transform::FlippedWeight => 3,
        };
        self.check(side, image.len(), first, planes.len());
        let (image, planes) = (image.as_ptr().wrapping_offset(first), planes.as_mut_ptr());
        // SAFETY: the bounds were checked above, and support for the instructions when the backend was created.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.transform_avx512(transform, image, planes),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.transform_avx2(transform, image, planes),
                _ => self.transform_with::<Portable, R>(transform, image, planes),
            }
        }
    }

    pub fn inverse_transform<R: Real>(
        &self,
        set: Instructions,
        inverse: InverseTransform,
        planes: &[f32],
        image: &mut [R],
    ) {
        let side = match inverse {
            InverseTransform::Output { bias, .. } => {
                assert!(bias.is_empty() || bias.len() >= self.channels, "{} bias values for {self:?}", bias.len());
                TILE
            }
            InverseTransform::WeightGradient => 3,
        };
        self.check(side, image.len(), 0, planes.len());
        let (image, planes) = (image.as_mut_ptr(), planes.as_ptr());
        // SAFETY: the bounds were checked above, and support for the instructions when the backend was created.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.inverse_avx512(inverse, planes, image),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.inverse_avx2(inverse, planes, image),
                _ => self.inverse_with::<Portable, R>(inverse, planes, image),
            }
        }
    }

    /// Asserts that the unclipped part of tiles of `side` × `side` pixels lies within the image, if the first tile begins at
    /// its value `first`, and their transforms within the planes.
    pub fn check(&self, side: usize, image: usize, first: isize, planes: usize) {
        assert!(
            self.count > 0 && self.channels.is_multiple_of(CHANNELS),
            "the channels do not fill whole vectors: {self:?}"
        );
        let tiles = self.count - 1;
        let Clip { rows, cols } = self.clip;
        let (last_row, last_col) = (rows.1.min(side) - 1, cols.1.min(side) - 1);
        let begin = first.checked_add_unsigned(rows.0 * self.line + cols.0 * self.pixel);
        let end = tiles * self.tile + last_row * self.line + last_col * self.pixel + self.channels;
        let end = first.checked_add_unsigned(end).and_then(|end| usize::try_from(end).ok());
        let is_inside = begin.is_some_and(|begin| begin >= 0) && end.is_some_and(|end| end <= image);
        assert!(is_inside, "{self:?} at {first} extends beyond the {image} values of its image");
        let end = (PLANES - 1) * self.plane + tiles * self.row + self.channels;
        assert!(end <= planes, "{self:?} extends past the {planes} values of its planes");
    }

    /// # Safety
    /// See [`Tiles::transform_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn transform_avx2<R: Real>(&self, transform: Transform, image: *const R, planes: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.transform_with::<crate::cpu::gemm::vector::Avx2, R>(transform, image, planes) }
    }

    /// # Safety
    /// See [`Tiles::transform_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn transform_avx512<R: Real>(&self, transform: Transform, image: *const R, planes: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.transform_with::<crate::cpu::gemm::vector::Avx512, R>(transform, image, planes) }
    }

    /// # Safety
    /// See [`Tiles::inverse_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_avx2<R: Real>(&self, inverse: InverseTransform, planes: *const f32, image: *mut R) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.inverse_with::<crate::cpu::gemm::vector::Avx2, R>(inverse, planes, image) }
    }

    /// # Safety
    /// See [`Tiles::inverse_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn inverse_avx512<R: Real>(&self, inverse: InverseTransform, planes: *const f32, image: *mut R) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.inverse_with::<crate::cpu::gemm::vector::Avx512, R>(inverse, planes, image) }
    }

    /// # Safety
    /// The tiles must lie within the image and the planes, and the machine must support `V`'s instructions.
    #[inline(always)]
    unsafe fn transform_with<V: Vector, R: Real>(&self, transform: Transform, image: *const R, planes: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe {
            match transform {
                Transform::Input if self.clip.is_whole() => self.transform_by::<V, Input, R, false>(image, planes),
                Transform::Input => self.transform_by::<V, Input, R, true>(image, planes),
                Transform::OutputGradient if self.clip.is_whole() => {
                    self.transform_by::<V, OutputGradient, R, false>(image, planes);
                }
                Transform::OutputGradient => self.transform_by::<V, OutputGradient, R, true>(image, planes),
                Transform::Weight => self.transform_by::<V, Weight, R, false>(image, planes),
                Transform::FlippedWeight => self.transform_by::<V, FlippedWeight, R, false>(image, planes),
            }
        }
    }

    /// # Safety
    /// See [`Tiles::transform_with`]; a bias must have one value per channel.
    #[inline(always)]
    unsafe fn inverse_with<V: Vector, R: Real>(&self, inverse: InverseTransform, planes: *const f32, image: *mut R) {
        // SAFETY: the caller upholds the contract.
        unsafe {
            match inverse {
                InverseTransform::Output { bias, relu } => {
                    let bias = if bias.is_empty() { std::ptr::null() } else { bias.as_ptr() };
                    match self.clip.is_whole() {
                        true => self.inverse_by::<V, Output, R, false>(planes, image, bias, relu),
                        false => self.inverse_by::<V, Output, R, true>(planes, image, bias, relu),
                    }
                }
                InverseTransform::WeightGradient => {
                    self.inverse_by::<V, WeightGradient, R, false>(planes, image, std::ptr::null(), false);
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
    unsafe fn transform_by<V: Vector, M: TransformMatrix, R: Real, const CLIPPED: bool>(
        &self,
        image: *const R,
        planes: *mut f32,
    ) {
        // SAFETY: only elements of the tiles are accessed, for which the caller upholds the contract.
        unsafe {
            for index in 0..self.count {
                for channel in (0..self.channels).step_by(V::LANES) {
                    let image = image.wrapping_add(index * self.tile + channel);
                    let rows = transform_rows::<V, M, R, CLIPPED>(image, (self.line, self.pixel), &self.clip);
                    let planes = planes.add(index * self.row + channel);
                    for x in 0..SIDE {
                        let column = transform_column::<V, M>(&rows, x);
                        for y in 0..SIDE {
                            column[y].store(planes.add((SIDE * y + x) * self.plane));
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
    unsafe fn inverse_by<V: Vector, M: TransformMatrix, R: Real, const CLIPPED: bool>(
        &self,
        planes: *const f32,
        image: *mut R,
        bias: *const f32,
        relu: bool,
    ) {
        // SAFETY: only elements of the tiles are accessed, for which the caller upholds the contract.
        unsafe {
            for index in 0..self.count {
                for channel in (0..self.channels).step_by(V::LANES) {
                    let planes = planes.add(index * self.row + channel);
                    let rows = transform_rows::<V, M, f32, false>(planes, (SIDE * self.plane, self.plane), &Clip::NONE);
                    let image = image.add(index * self.tile + channel);
                    let bias = if bias.is_null() { V::splat(0.0) } else { V::load(bias.add(channel)) };
                    for x in 0..M::TO {
                        let column = transform_column::<V, M>(&rows, x);
                        for y in 0..M::TO {
                            if CLIPPED && !(self.clip.has_row(y) && self.clip.has_col(x)) {
                                continue;
                            }
                            let value = column[y].add(bias);
                            let value = if relu { value.relu() } else { value };
                            R::store(value, image.add(y * self.line + x * self.pixel));
                        }
                    }
                }
            }
        }
    }
}

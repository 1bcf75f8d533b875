//! The transforms of Winograd's F(2×2, 3×3), from tiles of an image to sixteen planes and back, in each of the
//! instruction sets.

use super::maps::{Input, InputGradient, Map, Output, OutputGradient, Weight, WeightGradient, both_ways};
use crate::cpu::Instructions;
use crate::cpu::gemm::vector::{Portable, Vector};

/// Values of a transformed tile.
pub(in crate::cpu) const PLANES: usize = 16;

/// What the channels of a tile must be a multiple of: a vector of the widest instructions.
pub(in crate::cpu) const CHANNELS: usize = 16;

/// A row of tiles of an image, and where their transforms lie in the planes. All are distances in floats.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cpu) struct Tiles {
    pub count: usize,
    pub channels: usize,
    /// From one line, pixel and tile of the image to the next.
    pub line: usize,
    pub pixel: usize,
    pub tile: usize,
    /// From one plane, and within it from one tile, to the next.
    pub plane: usize,
    pub row: usize,
}

/// A transform from an image to the planes.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) enum Split {
    /// Four by four pixels that a tile of the output reads, `Bᵀ d B`.
    Input,
    /// The transpose of [`Join::Output`], `A d Aᵀ`.
    OutputGradient,
    /// Three by three weights, `G g Gᵀ`.
    Weight,
}

/// A transform from the planes to an image.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) enum Join<'a> {
    /// Two by two pixels, `Aᵀ m A`, to which a bias is added, if there is one, before ReLU if that is asked for.
    Output { bias: &'a [f32], relu: bool },
    /// The transpose of [`Split::Input`], added to what is there.
    InputGradient,
    /// The transpose of [`Split::Weight`].
    WeightGradient,
}

impl Tiles {
    pub fn split(&self, set: Instructions, split: Split, image: &[f32], planes: &mut [f32]) {
        let side = match split {
            Split::Input => 4,
            Split::OutputGradient => 2,
            Split::Weight => 3,
        };
        self.check(side, image.len(), planes.len());
        let (image, planes) = (image.as_ptr(), planes.as_mut_ptr());
        // SAFETY: all that is touched was checked; that the machine has the instructions, when the backend was made.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.split_avx512(split, image, planes),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.split_avx2(split, image, planes),
                _ => self.split_with::<Portable>(split, image, planes),
            }
        }
    }

    pub fn join(&self, set: Instructions, join: Join, planes: &[f32], image: &mut [f32]) {
        let side = match join {
            Join::Output { bias, .. } => {
                assert!(bias.is_empty() || bias.len() >= self.channels, "{} values of bias: {self:?}", bias.len());
                2
            }
            Join::InputGradient => 4,
            Join::WeightGradient => 3,
        };
        self.check(side, image.len(), planes.len());
        let (image, planes) = (image.as_mut_ptr(), planes.as_ptr());
        // SAFETY: all that is touched was checked; that the machine has the instructions, when the backend was made.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.join_avx512(join, planes, image),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.join_avx2(join, planes, image),
                _ => self.join_with::<Portable>(join, planes, image),
            }
        }
    }

    /// Asserts that tiles of `side` by `side` pixels are within the image, and their transforms within the planes.
    pub fn check(&self, side: usize, image: usize, planes: usize) {
        assert!(self.count > 0 && self.channels.is_multiple_of(CHANNELS), "no whole vectors: {self:?}");
        let (tiles, pixels) = (self.count - 1, side - 1);
        let farthest = tiles * self.tile + pixels * (self.line + self.pixel) + self.channels;
        assert!(farthest <= image, "{self:?} goes past the {image} values of its image");
        let farthest = (PLANES - 1) * self.plane + tiles * self.row + self.channels;
        assert!(farthest <= planes, "{self:?} goes past the {planes} values of its planes");
    }

    /// # Safety
    /// As [`Tiles::split_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn split_avx2(&self, split: Split, image: *const f32, planes: *mut f32) {
        // SAFETY: handed on to the caller.
        unsafe { self.split_with::<crate::cpu::gemm::vector::Avx2>(split, image, planes) }
    }

    /// # Safety
    /// As [`Tiles::split_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn split_avx512(&self, split: Split, image: *const f32, planes: *mut f32) {
        // SAFETY: handed on to the caller.
        unsafe { self.split_with::<crate::cpu::gemm::vector::Avx512>(split, image, planes) }
    }

    /// # Safety
    /// As [`Tiles::join_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn join_avx2(&self, join: Join, planes: *const f32, image: *mut f32) {
        // SAFETY: handed on to the caller.
        unsafe { self.join_with::<crate::cpu::gemm::vector::Avx2>(join, planes, image) }
    }

    /// # Safety
    /// As [`Tiles::join_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn join_avx512(&self, join: Join, planes: *const f32, image: *mut f32) {
        // SAFETY: handed on to the caller.
        unsafe { self.join_with::<crate::cpu::gemm::vector::Avx512>(join, planes, image) }
    }

    /// # Safety
    /// The tiles must lie within the image and the planes, and the machine must have `V`'s instructions.
    #[inline(always)]
    unsafe fn split_with<V: Vector>(&self, split: Split, image: *const f32, planes: *mut f32) {
        // SAFETY: handed on to the caller.
        unsafe {
            match split {
                Split::Input => self.split_by::<V, Input>(image, planes),
                Split::OutputGradient => self.split_by::<V, OutputGradient>(image, planes),
                Split::Weight => self.split_by::<V, Weight>(image, planes),
            }
        }
    }

    /// # Safety
    /// As [`Tiles::split_with`]; a bias must have as many values as there are channels.
    #[inline(always)]
    unsafe fn join_with<V: Vector>(&self, join: Join, planes: *const f32, image: *mut f32) {
        // SAFETY: handed on to the caller.
        unsafe {
            match join {
                Join::Output { bias, relu } => {
                    let bias = if bias.is_empty() { std::ptr::null() } else { bias.as_ptr() };
                    self.join_by::<V, Output>(planes, image, bias, relu);
                }
                Join::InputGradient => self.join_by::<V, InputGradient>(planes, image, std::ptr::null(), false),
                Join::WeightGradient => self.join_by::<V, WeightGradient>(planes, image, std::ptr::null(), false),
            }
        }
    }

    /// # Safety
    /// As [`Tiles::split_with`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // vectors must not pass through functions without their instructions
    unsafe fn split_by<V: Vector, M: Map>(&self, image: *const f32, planes: *mut f32) {
        // SAFETY: only values of the tiles are touched, for which the caller answers.
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
                    let values = both_ways::<V, M>(values);
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
    /// As [`Tiles::join_with`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // vectors must not pass through functions without their instructions
    unsafe fn join_by<V: Vector, M: Map>(&self, planes: *const f32, image: *mut f32, bias: *const f32, relu: bool) {
        // SAFETY: only values of the tiles are touched, for which the caller answers.
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
                    let values = both_ways::<V, M>(values);
                    let image = image.add(index * self.tile + channel);
                    let bias = if bias.is_null() { V::splat(0.0) } else { V::load(bias.add(channel)) };
                    for y in 0..M::TO {
                        for x in 0..M::TO {
                            let (mut value, image) = (values[y][x], image.add(y * self.line + x * self.pixel));
                            if M::ADDS {
                                value = value.add(V::load(image));
                            }
                            if M::ENDS {
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

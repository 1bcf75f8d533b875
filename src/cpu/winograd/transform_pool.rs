//! The end of a Winograd convolution whose tiles of two by two pixels are the windows of a max pooling: only their
//! maxima are written.

use super::maps::{Output, both_ways};
use super::transform::Tiles;
use crate::cpu::Instructions;
use crate::cpu::gemm::vector::{Portable, Vector};

/// What happens to the pixels of a row of tiles before and after their maximum is taken.
pub(in crate::cpu) struct Pooled<'a> {
    /// Empty, or a value for each channel.
    pub bias: &'a [f32],
    pub relu: bool,
    /// Number of the first tile's first pixel in its sample, and pixels of a line: an argmax is such a number.
    pub first: usize,
    pub width: usize,
}

impl Tiles {
    /// As [`Tiles::join`] of an output, of which `y` receives the maximum of each tile, [`Tiles::tile`] floats from one
    /// to the next, and `argmax`, unless it is empty, that pixel's number.
    pub fn join_pooled(&self, set: Instructions, end: &Pooled, planes: &[f32], y: &mut [f32], argmax: &mut [u32]) {
        assert!(end.bias.is_empty() || end.bias.len() >= self.channels, "{} values of bias: {self:?}", end.bias.len());
        assert!(argmax.is_empty() || argmax.len() == y.len(), "{} numbers for {} maxima", argmax.len(), y.len());
        self.check(1, y.len(), planes.len());
        let argmax = if argmax.is_empty() { std::ptr::null_mut() } else { argmax.as_mut_ptr() };
        let (planes, y) = (planes.as_ptr(), y.as_mut_ptr());
        // SAFETY: all that is touched was checked; that the machine has the instructions, when the backend was made.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.pool_avx512(end, planes, y, argmax),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.pool_avx2(end, planes, y, argmax),
                _ => self.pool_with::<Portable>(end, planes, y, argmax),
            }
        }
    }

    /// # Safety
    /// As [`Tiles::pool_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pool_avx2(&self, end: &Pooled, planes: *const f32, y: *mut f32, argmax: *mut u32) {
        // SAFETY: handed on to the caller.
        unsafe { self.pool_with::<crate::cpu::gemm::vector::Avx2>(end, planes, y, argmax) }
    }

    /// # Safety
    /// As [`Tiles::pool_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn pool_avx512(&self, end: &Pooled, planes: *const f32, y: *mut f32, argmax: *mut u32) {
        // SAFETY: handed on to the caller.
        unsafe { self.pool_with::<crate::cpu::gemm::vector::Avx512>(end, planes, y, argmax) }
    }

    /// # Safety
    /// The tiles must lie within the planes, their maxima within `y` and, unless it is null, within `argmax`; a bias
    /// must have as many values as there are channels; the machine must have `V`'s instructions.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // vectors must not pass through functions without their instructions
    unsafe fn pool_with<V: Vector>(&self, end: &Pooled, planes: *const f32, y: *mut f32, argmax: *mut u32) {
        // SAFETY: only values of the tiles are touched, for which the caller answers.
        unsafe {
            for index in 0..self.count {
                let first = end.first + 2 * index;
                // Numbers travel as the bits of floats, which are moved and never computed with.
                let number = |y: usize, x: usize| V::splat(f32::from_bits((first + y * end.width + x) as u32));
                for channel in (0..self.channels).step_by(V::LANES) {
                    let planes = planes.add(index * self.row + channel);
                    let mut values = [[V::splat(0.0); 4]; 4];
                    for y in 0..4 {
                        for x in 0..4 {
                            values[y][x] = V::load(planes.add((4 * y + x) * self.plane));
                        }
                    }
                    let values = both_ways::<V, Output>(values);
                    let has_bias = !end.bias.is_empty();
                    let bias = if has_bias { V::load(end.bias.as_ptr().add(channel)) } else { V::splat(0.0) };
                    let (mut best, mut winner) = (V::splat(0.0), number(0, 0));
                    for y in 0..2 {
                        for x in 0..2 {
                            let value = values[y][x].add(bias);
                            let value = if end.relu { value.relu() } else { value };
                            if (y, x) == (0, 0) {
                                best = value;
                                continue;
                            }
                            winner = value.if_greater(best, number(y, x), winner);
                            best = value.if_greater(best, value, best);
                        }
                    }
                    best.store(y.add(index * self.tile + channel));
                    if !argmax.is_null() {
                        winner.store(argmax.cast::<f32>().add(index * self.tile + channel));
                    }
                }
            }
        }
    }
}

//! The output transform of a Winograd convolution with a fused 2×2 max pooling: only the four maxima of each tile are
//! written.

use super::maps::{Clip, Output, SIDE, TILE, transform_column, transform_rows};
use super::transform::Tiles;
use crate::cpu::gemm::vector::{Portable, Vector};
use crate::cpu::{Instructions, Real};

/// The epilogue of a row of tiles with max pooling.
pub(in crate::cpu) struct PooledEpilogue<'a> {
    /// One value per channel, or empty.
    pub bias: &'a [f32],
    pub relu: bool,
    /// Index of the first tile's first pixel within its sample, and pixels per line; an argmax is such an index.
    pub first: usize,
    pub width: usize,
}

impl Tiles {
    /// Like [`Tiles::inverse_transform`] of an output, but `y` receives the maxima of the 2×2 windows of each tile. Unless
    /// it is empty, `argmax` receives the index of each maximum's pixel.
    pub fn inverse_transform_pooled<R: Real>(
        &self,
        set: Instructions,
        epilogue: &PooledEpilogue,
        planes: &[f32],
        y: &mut [R],
        argmax: &mut [u32],
    ) {
        assert!(
            epilogue.bias.is_empty() || epilogue.bias.len() >= self.channels,
            "{} bias values for {self:?}",
            epilogue.bias.len()
        );
        assert!(argmax.is_empty() || argmax.len() == y.len(), "{} indices for {} maxima", argmax.len(), y.len());
        self.check(TILE / 2, y.len(), 0, planes.len());
        let argmax = if argmax.is_empty() { std::ptr::null_mut() } else { argmax.as_mut_ptr() };
        let (planes, y) = (planes.as_ptr(), y.as_mut_ptr());
        // SAFETY: the bounds were checked above, and support for the instructions when the backend was created.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.pool_avx512(epilogue, planes, y, argmax),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.pool_avx2(epilogue, planes, y, argmax),
                _ => self.pool_with::<Portable, R>(epilogue, planes, y, argmax),
            }
        }
    }

    /// # Safety
    /// See [`Tiles::pool_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pool_avx2<R: Real>(&self, epilogue: &PooledEpilogue, planes: *const f32, y: *mut R, argmax: *mut u32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.pool_with::<crate::cpu::gemm::vector::Avx2, R>(epilogue, planes, y, argmax) }
    }

    /// # Safety
    /// See [`Tiles::pool_with`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn pool_avx512<R: Real>(&self, epilogue: &PooledEpilogue, planes: *const f32, y: *mut R, argmax: *mut u32) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.pool_with::<crate::cpu::gemm::vector::Avx512, R>(epilogue, planes, y, argmax) }
    }

    /// # Safety
    /// The tiles must lie within the planes, and their maxima within `y` and, unless it is null, `argmax`. A bias must
    /// have one value per channel. The machine must support `V`'s instructions.
    #[inline(always)]
    unsafe fn pool_with<V: Vector, R: Real>(
        &self,
        epilogue: &PooledEpilogue,
        planes: *const f32,
        maxima: *mut R,
        argmax: *mut u32,
    ) {
        // SAFETY: only elements of the tiles are accessed, for which the caller upholds the contract.
        unsafe {
            for index in 0..self.count {
                let first = epilogue.first + TILE * index;
                for channel in (0..self.channels).step_by(V::LANES) {
                    let planes = planes.add(index * self.row + channel);
                    let rows =
                        transform_rows::<V, Output, f32, false>(planes, (SIDE * self.plane, self.plane), &Clip::NONE);
                    let has_bias = !epilogue.bias.is_empty();
                    let bias = if has_bias { V::load(epilogue.bias.as_ptr().add(channel)) } else { V::splat(0.0) };
                    for x in (0..TILE).step_by(2) {
                        let columns =
                            [transform_column::<V, Output>(&rows, x), transform_column::<V, Output>(&rows, x + 1)];
                        for y in (0..TILE).step_by(2) {
                            // Indices are stored in the bits of floats, which are only moved, never computed with.
                            let index_of = |dy: usize, dx: usize| {
                                V::splat(f32::from_bits((first + (y + dy) * epilogue.width + x + dx) as u32))
                            };
                            let (mut best, mut winner) = (V::splat(0.0), index_of(0, 0));
                            for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                                let value = columns[dx][y + dy].add(bias);
                                let value = if epilogue.relu { value.relu() } else { value };
                                if (dy, dx) == (0, 0) {
                                    best = value;
                                    continue;
                                }
                                winner = value.if_greater(best, index_of(dy, dx), winner);
                                best = value.if_greater(best, value, best);
                            }
                            let at = index * self.tile + y / 2 * self.line + x / 2 * self.pixel + channel;
                            R::store(best, maxima.add(at));
                            if !argmax.is_null() {
                                winner.store(argmax.cast::<f32>().add(at));
                            }
                        }
                    }
                }
            }
        }
    }
}

//! The loops whose speed is measured, for each instruction set: multiply-adds on registers, reads, writes and copies.

use std::hint::black_box;

use super::Instructions;
use crate::cpu::gemm::vector::{Portable, Vector};

/// Independent sums: enough to hide the latency of a multiply-add, and few enough for the registers.
const SUMS: usize = 12;

/// Independent products, and as many sums, without fused multiply-add: the sixteen registers of x86-64 hold four floats
/// each, and a portable vector has eight.
const SEPARATE: usize = 3;

/// Multiply-adds of a sum per call.
const ROUNDS: usize = 2048;

/// Vectors per round of a loop over memory.
const UNROLLED: usize = 8;

/// Floats per round of a loop over memory with the widest vectors; buffers are multiples of it.
pub(super) const BLOCK: usize = 16 * UNROLLED;

/// A loop over memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Access {
    Read,
    Write,
    /// From the first half of the buffer to the second.
    Copy,
}

/// Multiplies and adds on registers. Returns the number of floating-point operations.
pub(super) fn multiply_add(set: Instructions) -> f64 {
    // SAFETY: the caller asks for instructions that this machine has, see `Instructions::available`.
    let (lanes, vectors) = unsafe {
        match set {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => multiply_add_avx512(),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => multiply_add_avx2(),
            _ => separately(),
        }
    };
    2.0 * (lanes * vectors * ROUNDS) as f64
}

/// Reads, writes or copies `buffer` once, whose length is a multiple of twice [`BLOCK`].
pub(super) fn access(set: Instructions, access: Access, buffer: &mut [f32]) {
    assert!(buffer.len().is_multiple_of(2 * BLOCK), "{} floats are no whole blocks", buffer.len());
    // SAFETY: support for the instructions was checked when the backend was created, and the length above.
    unsafe {
        match set {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => access_avx512(access, buffer),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => access_avx2(access, buffer),
            _ => access_with::<Portable>(access, buffer),
        }
    }
}

/// Writes or copies like [`access`], by the system's functions, which may write past the caches.
pub(super) fn access_by_system(access: Access, buffer: &mut [f32]) {
    let half = buffer.len() / 2;
    match access {
        Access::Read => {}
        Access::Write => buffer.fill(0.0),
        Access::Copy => buffer.copy_within(..half, half),
    }
    black_box(buffer);
}

/// # Safety
/// See [`fused`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_add_avx2() -> (usize, usize) {
    // SAFETY: the caller upholds the contract.
    unsafe { fused::<crate::cpu::gemm::vector::Avx2>() }
}

/// # Safety
/// See [`fused`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn multiply_add_avx512() -> (usize, usize) {
    // SAFETY: the caller upholds the contract.
    unsafe { fused::<crate::cpu::gemm::vector::Avx512>() }
}

/// Fused multiply-adds. Returns the lanes of a vector and the number of vectors.
///
/// # Safety
/// The machine must support `V`'s instructions.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "vectors must not be passed to functions without the instruction set")]
unsafe fn fused<V: Vector>() -> (usize, usize) {
    // SAFETY: the caller upholds the contract, and `out` has room for a vector.
    unsafe {
        let (factor, term) = (V::splat(black_box(0.5)), V::splat(black_box(1.0)));
        let mut sums = [V::splat(black_box(1.0)); SUMS];
        for _ in 0..ROUNDS {
            for i in 0..SUMS {
                sums[i] = sums[i].multiply_add(factor, term);
            }
        }
        for i in 0..SUMS {
            let mut out = [0.0_f32; 16];
            sums[i].store(out.as_mut_ptr());
            black_box(out);
        }
    }
    (V::LANES, SUMS)
}

/// A multiplication and an addition per lane, independent of each other. Returns the lanes of a vector and the number of
/// vectors.
///
/// # Safety
/// None: the portable vectors need no instructions of their own.
unsafe fn separately() -> (usize, usize) {
    // SAFETY: `out` has room for a vector.
    unsafe {
        // So close to one that the products stay normal numbers.
        let (factor, term) = (Portable::splat(black_box(0.999_999)), Portable::splat(black_box(1.0)));
        let mut products = [Portable::splat(black_box(1.0)); SEPARATE];
        let mut sums = products;
        for _ in 0..ROUNDS {
            for i in 0..SEPARATE {
                products[i] = products[i].mul(factor);
                sums[i] = sums[i].add(term);
            }
        }
        for i in 0..SEPARATE {
            let mut out = [0.0_f32; 8];
            products[i].add(sums[i]).store(out.as_mut_ptr());
            black_box(out);
        }
    }
    (Portable::LANES, SEPARATE)
}

/// # Safety
/// See [`access_with`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn access_avx2(access: Access, buffer: &mut [f32]) {
    // SAFETY: the caller upholds the contract.
    unsafe { access_with::<crate::cpu::gemm::vector::Avx2>(access, buffer) }
}

/// # Safety
/// See [`access_with`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn access_avx512(access: Access, buffer: &mut [f32]) {
    // SAFETY: the caller upholds the contract.
    unsafe { access_with::<crate::cpu::gemm::vector::Avx512>(access, buffer) }
}

/// # Safety
/// The machine must support `V`'s instructions, and the length must be a multiple of twice [`BLOCK`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "vectors must not be passed to functions without the instruction set")]
unsafe fn access_with<V: Vector>(access: Access, buffer: &mut [f32]) {
    let (len, block, from) = (buffer.len(), UNROLLED * V::LANES, buffer.as_mut_ptr());
    // SAFETY: both halves of the buffer consist of whole blocks, and the caller upholds the rest.
    unsafe {
        match access {
            Access::Read => {
                let mut sums = [V::splat(0.0); UNROLLED];
                for at in (0..len).step_by(block) {
                    for i in 0..UNROLLED {
                        sums[i] = sums[i].add(V::load(from.add(at + i * V::LANES)));
                    }
                }
                for i in 0..UNROLLED {
                    let mut out = [0.0_f32; 16];
                    sums[i].store(out.as_mut_ptr());
                    black_box(out);
                }
            }
            Access::Write => {
                let value = V::splat(black_box(1.0));
                for at in (0..len).step_by(block) {
                    for i in 0..UNROLLED {
                        value.store(from.add(at + i * V::LANES));
                    }
                }
            }
            Access::Copy => {
                let to = from.add(len / 2);
                for at in (0..len / 2).step_by(block) {
                    for i in 0..UNROLLED {
                        V::load(from.add(at + i * V::LANES)).store(to.add(at + i * V::LANES));
                    }
                }
            }
        }
    }
    black_box(buffer);
}

/// Products of pairs of bf16 numbers that are added to fp32 sums (`vdpbf16ps`). Returns the number of floating-point
/// operations.
///
/// # Safety
/// The machine must support AVX-512 with BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_add_bf16() -> f64 {
    use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi16, _mm512_set1_ps, _mm512_storeu_ps};
    use std::mem::transmute;
    // 1 and 2⁻⁷ as bf16.
    let [one, small] = [0x3f80, 0x3c00].map(|bits| _mm512_set1_epi16(black_box(bits)));
    // SAFETY: both types are 64 bytes of plain data.
    let [one, small] = unsafe { [one, small].map(|bits| transmute::<__m512i, __m512bh>(bits)) };
    let mut sums = [_mm512_set1_ps(black_box(1.0)); SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, one, small);
        }
    }
    for sum in sums {
        let mut out = [0.0_f32; 16];
        // SAFETY: `out` has room for a vector.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
        black_box(out);
    }
    // Two multiply-adds for each of the sixteen sums of a vector.
    4.0 * (16 * SUMS * ROUNDS) as f64
}

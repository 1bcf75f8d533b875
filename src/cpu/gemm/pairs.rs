//! Pairs of bf16 in the bits of floats, the operands of products whose terms are two products of bf16 each
//! (`vdpbf16ps`): of neighbouring values of a row, or of the values of two neighbouring rows. Their packing, and vectors of
//! them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::vector::{Avx512, Vector};
use crate::cpu::real::Real;
use crate::cpu::runtime::scratch::PANEL;
use crate::cpu::{Instructions, Loop};

/// The values two by two, if `set` multiplies pairs and the values are bf16. `None` also if their number is odd, or if the
/// first is not aligned to a float.
pub(in crate::cpu) fn of_values<R: Real>(set: Instructions, values: &[R]) -> Option<&[f32]> {
    let values = R::as_bf16(values).filter(|_| set.multiplies_pairs())?;
    // SAFETY: all bits are a valid float.
    let (before, pairs, after) = unsafe { values.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(pairs)
}

#[inline(always)]
fn pair(first: bf16, second: bf16) -> f32 {
    f32::from_bits(u32::from(second.to_bits()) << 16 | u32::from(first.to_bits()))
}

/// Pairs of two rows of values; without a second row, it is zero.
#[inline(always)]
pub(in crate::cpu) fn of_rows(first: &[bf16], second: Option<&[bf16]>, pairs: &mut [f32]) {
    match second {
        Some(second) => {
            let rows = first.iter().zip(second);
            pairs.iter_mut().zip(rows).for_each(|(to, (first, second))| *to = pair(*first, *second));
        }
        None => pairs.iter_mut().zip(first).for_each(|(to, first)| *to = pair(*first, bf16::ZERO)),
    }
}

/// Packs `count` windows of `len` floats, `step` apart, as pairs of neighbouring windows; the last of an odd number is paired
/// with zeros. The floats must be bf16 without a fraction to round.
pub(in crate::cpu) fn pack_windows(
    set: Instructions,
    floats: &[f32],
    step: usize,
    (count, len): (usize, usize),
    target: &mut [f32],
) {
    set.run(PackWindows { floats, step, count, len, target });
}

struct PackWindows<'a> {
    floats: &'a [f32],
    step: usize,
    count: usize,
    len: usize,
    target: &'a mut [f32],
}

impl Loop for PackWindows<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { floats, step, count, len, target } = self;
        for (index, target) in target.chunks_exact_mut(len).enumerate() {
            let window = |at: usize| &floats[at * step..][..len];
            let second = 2 * index + 1;
            of_float_rows(window(2 * index), (second < count).then(|| window(second)), target);
        }
    }
}

/// [`of_rows`] of floats that are bf16 without a fraction to round.
#[inline(always)]
fn of_float_rows(first: &[f32], second: Option<&[f32]>, pairs: &mut [f32]) {
    let high = |value: &f32| value.to_bits() & 0xffff_0000;
    match second {
        Some(second) => {
            let rows = first.iter().zip(second);
            pairs.iter_mut().zip(rows).for_each(|(to, (first, second))| {
                *to = f32::from_bits(high(second) | first.to_bits() >> 16);
            });
        }
        None => pairs.iter_mut().zip(first).for_each(|(to, first)| *to = f32::from_bits(first.to_bits() >> 16)),
    }
}

/// Packs the first `cols` columns of `rows` rows of `source`, with row stride `stride`, as pairs of rows into
/// `target [panel][rows / 2][PANEL]`. The last pair of an odd number of rows has zeros, and the last panel has only as many
/// columns as remain.
pub(in crate::cpu) fn pack_panels(
    set: Instructions,
    source: &[bf16],
    stride: usize,
    (rows, cols): (usize, usize),
    target: &mut [f32],
) {
    set.run(PackPanels { source, stride, rows, cols, target });
}

struct PackPanels<'a> {
    source: &'a [bf16],
    stride: usize,
    rows: usize,
    cols: usize,
    target: &'a mut [f32],
}

impl Loop for PackPanels<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { source, stride, rows, cols, target } = self;
        let pairs = rows.div_ceil(2);
        for (panel, target) in target[..pairs * cols].chunks_mut(pairs * PANEL).enumerate() {
            let width = target.len() / pairs;
            for (index, target) in target.chunks_exact_mut(width).enumerate() {
                let row = |row: usize| &source[row * stride + panel * PANEL..][..width];
                let second = 2 * index + 1;
                of_rows(row(2 * index), (second < rows).then(|| row(second)), target);
            }
        }
    }
}

/// Like [`Avx512`], but every factor is a pair of bf16 in the bits of a float, and a product is that of two pairs: the
/// sum of two products of bf16. Terms and sums are floats.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Pairs(Avx512);

// SAFETY of all bodies: the caller guarantees AVX-512 with bf16 and valid memory.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::undocumented_unsafe_blocks, reason = "every method has the contract of `Vector`")]
impl Vector for Pairs {
    const LANES: usize = Avx512::LANES;
    const MAX_ROWS: usize = Avx512::MAX_ROWS;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { Avx512::splat(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { Avx512::load(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        Self(unsafe { Avx512::load_first(from, count) })
    }

    #[inline(always)]
    unsafe fn load_if(from: *const f32, condition: bool) -> Self {
        Self(unsafe { Avx512::load_if(from, condition) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self(unsafe { Avx512::load_bf16(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { self.0.store(to) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        unsafe { self.0.store_bf16(to) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { self.0.store_first(to, count) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { self.0.add(other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { self.0.sub(other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { self.multiply_add(other, Self::splat(0.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, term: Self) -> Self {
        // `__m512` and `__m512bh` are both 512 bits, of any values.
        unsafe {
            let [a, b] = [self.0.0, factor.0.0].map(|bits| std::mem::transmute::<__m512, __m512bh>(bits));
            Self(Avx512(_mm512_dpbf16_ps(term.0.0, a, b)))
        }
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        Self(unsafe { self.0.relu() })
    }

    #[inline(always)]
    unsafe fn if_greater(self, other: Self, yes: Self, no: Self) -> Self {
        Self(unsafe { self.0.if_greater(other.0, yes.0, no.0) })
    }
}

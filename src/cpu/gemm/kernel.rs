//! The micro-kernel of every matrix product: register tiles of accumulators, with operands read in place, for each
//! instruction set.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};

use super::vector::{Portable, Vector};
use crate::cpu::Instructions;

/// Bytes per cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Minimum number of terms of a sum for which prefetching its result pays off.
#[cfg(target_arch = "x86_64")]
const LONG_SUM: usize = 64;

/// Strides of the left operand along each loop.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cpu) struct LeftStrides {
    pub line: usize,
    pub row: usize,
    pub outer: usize,
    pub inner: usize,
}

/// A matrix product with five loops, general enough for a convolution that reads its input in place:
/// `c[l·c_line + r·c_row + v] = start + Σ_o Σ_i a[l·a.line + r·a.row + o·a.outer + i·a.inner] ·
/// b[o·b_outer + i·b_inner + v]` for all lines `l`, rows `r` and columns `v`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cpu) struct Gemm {
    pub lines: usize,
    pub rows: usize,
    pub cols: usize,
    pub outer: usize,
    pub inner: usize,
    pub a: LeftStrides,
    pub b_outer: usize,
    pub b_inner: usize,
    pub c_line: usize,
    pub c_row: usize,
    /// Whether the operands are pairs of bf16 in the bits of floats; [`Instructions::multiplies_pairs`] must be true.
    pub pairs: bool,
}

/// The initial value of a sum.
#[derive(Clone, Copy)]
pub(in crate::cpu) enum Start<'a> {
    Zero,
    /// The existing value of `c`. Rows of `c` may then overlap: they are added one after the other.
    Accumulate,
    /// A value per column.
    Bias(&'a [f32]),
}

impl Gemm {
    /// Computes the product on the calling thread, followed by ReLU if `relu` is true.
    pub fn run(&self, set: Instructions, a: &[f32], b: &[f32], c: &mut [f32], start: Start, relu: bool) {
        let lengths = [self.lines, self.rows, self.cols, self.outer, self.inner];
        if lengths[..3].contains(&0) {
            return;
        }
        assert!(self.outer > 0 && self.inner > 0, "the inner dimension is empty: {self:?}");
        let [lines, rows, cols, outer, inner] = lengths.map(|length| length - 1);
        let left = lines * self.a.line + rows * self.a.row + outer * self.a.outer + inner * self.a.inner;
        assert!(left < a.len(), "{self:?} reads past the {} values of its left operand", a.len());
        let right = outer * self.b_outer + inner * self.b_inner + cols;
        assert!(right < b.len(), "{self:?} reads past the {} values of its right operand", b.len());
        assert!(lines * self.c_line + rows * self.c_row + cols < c.len(), "{self:?} writes past {} values", c.len());
        if let Start::Bias(bias) = start {
            assert!(bias.len() >= self.cols, "{} bias values for {self:?}", bias.len());
        }
        assert!(!self.pairs || set.multiplies_pairs(), "{} has no products of pairs", set.name());
        // SAFETY: the asserts above check the largest index of all three operands. The machine's support for the
        // instructions was checked when the backend was created, and that for pairs above.
        unsafe {
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            match set {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 if self.pairs => self.tiles_pairs(a, b, c, start, relu),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => self.tiles_avx512(a, b, c, start, relu),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => self.tiles_avx2(a, b, c, start, relu),
                _ => self.tiles::<Portable>(a, b, c, start, relu),
            }
        }
    }

    /// # Safety
    /// See [`Gemm::tiles`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tiles_avx2(&self, a: *const f32, b: *const f32, c: *mut f32, start: Start, relu: bool) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.tiles::<super::vector::Avx2>(a, b, c, start, relu) }
    }

    /// # Safety
    /// See [`Gemm::tiles`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn tiles_avx512(&self, a: *const f32, b: *const f32, c: *mut f32, start: Start, relu: bool) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.tiles::<super::vector::Avx512>(a, b, c, start, relu) }
    }

    /// # Safety
    /// See [`Gemm::tiles`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512bf16,avx512f,avx2,fma")]
    unsafe fn tiles_pairs(&self, a: *const f32, b: *const f32, c: *mut f32, start: Start, relu: bool) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.tiles::<super::pairs::Pairs>(a, b, c, start, relu) }
    }

    /// # Safety
    /// All elements that the loops access must be valid, those of `c` exclusively, and the machine must support `V`'s
    /// instructions.
    #[inline(always)]
    unsafe fn tiles<V: Vector>(&self, a: *const f32, b: *const f32, c: *mut f32, start: Start, relu: bool) {
        for col in (0..self.cols).step_by(2 * V::LANES) {
            let cols = (self.cols - col).min(2 * V::LANES);
            let start = match start {
                Start::Bias(bias) => Start::Bias(&bias[col..]),
                start => start,
            };
            for line in 0..self.lines {
                let mut row = 0;
                while row < self.rows {
                    let rows = next_rows::<V>(self.rows - row);
                    let tile = Tile { product: self, start, relu, cols };
                    // SAFETY: the tile lies within the product, for which the caller upholds the contract.
                    unsafe {
                        let a = a.add(line * self.a.line + row * self.a.row);
                        let c = c.add(line * self.c_line + row * self.c_row + col);
                        tile.dispatch_rows::<V>(rows, a, b.add(col), c);
                    }
                    row += rows;
                }
            }
        }
    }
}

/// Rows of a full register tile for an instruction set.
pub(in crate::cpu) fn tile_rows(set: Instructions) -> usize {
    match set {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => super::vector::Avx512::MAX_ROWS,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => super::vector::Avx2::MAX_ROWS,
        _ => Portable::MAX_ROWS,
    }
}

/// Prefetches `values` into the cache, if the architecture supports it.
#[inline(always)]
pub(in crate::cpu) fn prefetch<R>(values: &[R]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE / size_of::<R>()) {
        // SAFETY: a prefetch is a hint and accesses no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Rows of the next tile if `remaining` rows remain, chosen so that all tiles have about the same height.
#[inline(always)]
fn next_rows<V: Vector>(remaining: usize) -> usize {
    remaining.div_ceil(remaining.div_ceil(V::MAX_ROWS))
}

/// A register tile of a product.
#[derive(Clone, Copy)]
struct Tile<'a> {
    product: &'a Gemm,
    start: Start<'a>,
    relu: bool,
    cols: usize,
}

impl Tile<'_> {
    /// # Safety
    /// See [`Gemm::tiles`].
    #[inline(always)]
    unsafe fn dispatch_rows<V: Vector>(&self, rows: usize, a: *const f32, b: *const f32, c: *mut f32) {
        // SAFETY: the caller upholds the contract.
        unsafe {
            match rows {
                1 => self.dispatch_columns::<V, 1>(a, b, c),
                2 => self.dispatch_columns::<V, 2>(a, b, c),
                3 => self.dispatch_columns::<V, 3>(a, b, c),
                4 if V::MAX_ROWS >= 4 => self.dispatch_columns::<V, 4>(a, b, c),
                5 if V::MAX_ROWS >= 5 => self.dispatch_columns::<V, 5>(a, b, c),
                6 if V::MAX_ROWS >= 6 => self.dispatch_columns::<V, 6>(a, b, c),
                7 if V::MAX_ROWS >= 7 => self.dispatch_columns::<V, 7>(a, b, c),
                8 if V::MAX_ROWS >= 8 => self.dispatch_columns::<V, 8>(a, b, c),
                _ => unreachable!("no tile has {rows} rows"),
            }
        }
    }

    /// # Safety
    /// See [`Gemm::tiles`].
    #[inline(always)]
    unsafe fn dispatch_columns<V: Vector, const ROWS: usize>(&self, a: *const f32, b: *const f32, c: *mut f32) {
        let lanes = V::LANES;
        // SAFETY: the caller upholds the contract.
        unsafe {
            match self.cols {
                cols if cols == 2 * lanes => self.sum::<V, ROWS, 2, false>(a, b, c),
                cols if cols > lanes => self.sum::<V, ROWS, 2, true>(a, b, c),
                cols if cols == lanes => self.sum::<V, ROWS, 1, false>(a, b, c),
                _ => self.sum::<V, ROWS, 1, true>(a, b, c),
            }
        }
    }

    /// Computes `ROWS` rows of `VECTORS` vectors of sums; with `PARTIAL`, the last vector of a row is not full.
    ///
    /// # Safety
    /// See [`Gemm::tiles`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterator adaptors are separate functions, see below")]
    unsafe fn sum<V: Vector, const ROWS: usize, const VECTORS: usize, const PARTIAL: bool>(
        &self,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        let &Gemm { outer, inner, a: left, b_outer, b_inner, c_row, .. } = self.product;
        let last = self.cols - (VECTORS - 1) * V::LANES;
        let is_partial = |v: usize| PARTIAL && v == VECTORS - 1;
        // Plain loops: vectors must not be passed to functions that are compiled without the instruction set.
        // SAFETY: only elements of the tile are accessed, for which the caller upholds the contract.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if outer * inner >= LONG_SUM {
                for row in 0..ROWS {
                    for v in 0..VECTORS {
                        _mm_prefetch::<_MM_HINT_ET0>(c.wrapping_add(row * c_row + v * V::LANES).cast::<i8>());
                    }
                }
            }
            let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
            if let Start::Bias(bias) = self.start {
                for v in 0..VECTORS {
                    let bias = load::<V>(bias.as_ptr().add(v * V::LANES), is_partial(v), last);
                    for row in 0..ROWS {
                        sums[row][v] = bias;
                    }
                }
            }
            for o in 0..outer {
                let (mut a, mut b) = (a.add(o * left.outer), b.add(o * b_outer));
                for _ in 0..inner {
                    let mut right = [V::splat(0.0); VECTORS];
                    for v in 0..VECTORS {
                        right[v] = load::<V>(b.add(v * V::LANES), is_partial(v), last);
                    }
                    for row in 0..ROWS {
                        let value = V::splat(*a.add(row * left.row));
                        for v in 0..VECTORS {
                            sums[row][v] = value.multiply_add(right[v], sums[row][v]);
                        }
                    }
                    (a, b) = (a.wrapping_add(left.inner), b.wrapping_add(b_inner));
                }
            }
            for row in 0..ROWS {
                for v in 0..VECTORS {
                    let (mut sum, c) = (sums[row][v], c.add(row * c_row + v * V::LANES));
                    if matches!(self.start, Start::Accumulate) {
                        sum = sum.add(load::<V>(c, is_partial(v), last));
                    }
                    if self.relu {
                        sum = sum.relu();
                    }
                    if is_partial(v) { sum.store_first(c, last) } else { sum.store(c) }
                }
            }
        }
    }
}

/// # Safety
/// The first `count` values, or a whole vector unless it `is_partial`, must be readable. See also [`Gemm::tiles`].
#[inline(always)]
unsafe fn load<V: Vector>(from: *const f32, is_partial: bool, count: usize) -> V {
    // SAFETY: the caller upholds the contract.
    unsafe { if is_partial { V::load_first(from, count) } else { V::load(from) } }
}

//! Matrix products, by the `gemm` crate; the one place of the CPU backend that works on raw pointers.

use gemm::Parallelism;
use rayon::prelude::*;

/// A matrix in borrowed memory, with any strides.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major `[rows][cols]`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "a {rows}×{cols} matrix in {} values", data.len());
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Columns `begin..begin + cols`.
    fn columns(self, begin: usize, cols: usize) -> Self {
        assert!(begin + cols <= self.cols);
        Self { data: &self.data[(begin * self.col_stride).min(self.data.len())..], cols, ..self }
    }

    /// Rows `begin..begin + rows`.
    fn rows(self, begin: usize, rows: usize) -> Self {
        self.transposed().columns(begin, rows).transposed()
    }
}

/// Whether a product replaces or adds to what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Replace,
    Accumulate,
}

/// `c = a · b` or `c += a · b` on the calling thread; `c` is row-major `[a.rows][b.cols]`.
pub(super) fn gemm(a: Matrix, b: Matrix, c: &mut [f32], write: Write) {
    assert!(c.len() >= a.rows * b.cols, "a {}×{} product in {} values", a.rows, b.cols, c.len());
    // SAFETY: `c` is exclusive and, as just checked, holds all rows of `b.cols` values.
    unsafe { product(a, b, c.as_mut_ptr(), b.cols, write) }
}

/// `c = a · b` over all threads, in blocks of `block_rows × block_cols` of `c` that do not depend on the threads.
pub(super) fn gemm_blocked(a: Matrix, b: Matrix, c: &mut [f32], block_rows: usize, block_cols: usize) {
    assert!(c.len() >= a.rows * b.cols, "a {}×{} product in {} values", a.rows, b.cols, c.len());
    let (row_blocks, col_blocks) = (a.rows.div_ceil(block_rows), b.cols.div_ceil(block_cols));
    let (target, stride) = (SharedPointer(c.as_mut_ptr()), b.cols);
    (0..row_blocks * col_blocks).into_par_iter().for_each(|block| {
        let (row, col) = (block / col_blocks * block_rows, block % col_blocks * block_cols);
        let a = a.rows(row, block_rows.min(a.rows - row));
        let b = b.columns(col, block_cols.min(b.cols - col));
        // SAFETY: blocks do not overlap, and all of them lie in `c`, which is borrowed for the whole loop.
        unsafe { product(a, b, target.at(row * stride + col), stride, Write::Replace) }
    });
}

/// A pointer that several threads write through, each to its own block.
#[derive(Clone, Copy)]
struct SharedPointer(*mut f32);

// SAFETY: it is only made in `gemm_blocked`, whose blocks are disjoint.
unsafe impl Send for SharedPointer {}
unsafe impl Sync for SharedPointer {}

impl SharedPointer {
    /// # Safety
    /// `offset` must lie in the memory pointed to.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        unsafe { self.0.add(offset) }
    }
}

/// # Safety
/// `c` must be valid and exclusive for `a.rows` rows of `b.cols` values, `c_stride` apart.
unsafe fn product(a: Matrix, b: Matrix, c: *mut f32, c_stride: usize, write: Write) {
    assert_eq!(a.cols, b.rows, "inner dimensions differ");
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    for matrix in [a, b] {
        let last =
            matrix.rows.saturating_sub(1) * matrix.row_stride + matrix.cols.saturating_sub(1) * matrix.col_stride;
        assert!(matrix.rows == 0 || matrix.cols == 0 || last < matrix.data.len(), "a matrix reaches past its memory");
    }
    // SAFETY: the strides of `a` and `b` stay in their slices, as checked; the caller answers for `c`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            c,
            1,
            c_stride as isize,
            write == Write::Accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

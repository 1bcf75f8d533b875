//! Buffers for intermediate values, kept between steps to avoid allocations, and packing of matrices into them.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::cpu::real::Real;
use crate::cpu::{Instructions, Loop};
use crate::ops::{Conv2d, Precision, Region, Span};

/// Columns per panel: two vectors of the widest instruction set. Packing into panels makes the right operand
/// contiguous.
pub(in crate::cpu) const PANEL: usize = 32;

/// Minimum number of tasks of a convolution's weight gradient, and maximum number of groups of output lines.
const WEIGHT_PIECES: usize = 8;

/// Maximum number of floats in partial sums: writing and adding more of them would take longer than computing them.
const MAX_PARTIALS: usize = 1 << 22;

/// Number of groups of output lines with separate partial sums of the weight gradient. Each partial sum has `len`
/// floats, and is computed in `pieces` tasks.
pub(in crate::cpu) fn weight_groups(len: usize, pieces: usize) -> usize {
    WEIGHT_PIECES.min((MAX_PARTIALS / len).max(WEIGHT_PIECES.div_ceil(pieces)))
}

/// Buffers shared by all threads.
#[derive(Default)]
pub(in crate::cpu) struct Scratch {
    /// Weights or inputs, packed in the order in which a product reads them.
    pub packed: Vec<f32>,
    /// Results that still have to be summed or transposed.
    pub partials: Vec<f32>,
    /// Transformed tiles of images.
    pub tiles: Vec<f32>,
}

/// Packed weights of convolutions for the forward pass, repacked only after the parameters have changed. The key is the
/// weight's offset.
#[derive(Default)]
pub(in crate::cpu) struct PackedWeightCache(HashMap<usize, PackedWeights>);

struct PackedWeights {
    op: Conv2d,
    /// The version of the parameters that were packed. `None` during packing, and for weights outside the parameters,
    /// which can change without a new version.
    version: Option<u64>,
    values: Vec<f32>,
}

impl PackedWeightCache {
    /// The `len` floats that `pack` writes for parameters of the given version.
    pub fn weights(
        &mut self,
        op: &Conv2d,
        weight: Span,
        version: u64,
        len: usize,
        pack: impl FnOnce(&mut [f32]),
    ) -> &[f32] {
        let empty = || PackedWeights { op: *op, version: None, values: Vec::new() };
        let cached = self.0.entry(weight.offset).or_insert_with(empty);
        let is_parameter = weight.region == Region::Parameters;
        let current = is_parameter && cached.version == Some(version) && cached.op == *op;
        if !current || cached.values.len() != len {
            cached.version = None;
            cached.values.resize(len, 0.0);
            pack(&mut cached.values);
            (cached.op, cached.version) = (*op, is_parameter.then_some(version));
        }
        &cached.values
    }
}

/// The thread-local buffers, which may be in use at the same time.
#[derive(Clone, Copy)]
pub(in crate::cpu) enum Buffer {
    /// A padded image.
    Padded,
    /// One operand of a product.
    Packed,
    /// Transformed tiles of an image, or transformed weights or their gradient.
    Tiles,
    /// Products of transformed tiles, or transformed tiles of a second image.
    Products,
    /// An operand that is not stored as floats, converted.
    Converted,
    /// A second one.
    OtherConverted,
    /// A result before it is rounded.
    Output,
}

thread_local! {
    static BUFFERS: [RefCell<Vec<f32>>; 7] = const { [const { RefCell::new(Vec::new()) }; 7] };
}

/// Runs `body` with `len` floats of one of this thread's buffers. Their initial contents are unspecified.
pub(in crate::cpu) fn with<R>(buffer: Buffer, len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    BUFFERS.with(|buffers| body(grown(&mut buffers[buffer as usize].borrow_mut(), len)))
}

/// Calls `body` with values as floats. Those that are not floats are converted into one of this thread's buffers.
pub(in crate::cpu) fn with_floats<R: Real>(set: Instructions, values: &[R], buffer: Buffer, body: impl FnOnce(&[f32])) {
    match R::as_floats(values) {
        Some(floats) => body(floats),
        None => with(buffer, values.len(), |floats| {
            set.run(ToFloats { values, floats });
            body(floats);
        }),
    }
}

/// Calls `body` with floats that become `values`. Their initial contents are unspecified.
pub(in crate::cpu) fn with_output<R: Real>(set: Instructions, values: &mut [R], body: impl FnOnce(&mut [f32])) {
    if R::PRECISION == Precision::Fp32 {
        return body(R::as_floats_mut(values).unwrap_or_default());
    }
    with(Buffer::Output, values.len(), |floats| {
        body(floats);
        set.run(FromFloats { floats, values });
    });
}

/// [`Real::copy_to_floats`]
pub(in crate::cpu) struct ToFloats<'a, R> {
    pub values: &'a [R],
    pub floats: &'a mut [f32],
}

impl<R: Real> Loop for ToFloats<'_, R> {
    #[inline(always)]
    fn run(self) {
        R::copy_to_floats(self.values, self.floats);
    }
}

/// [`Real::copy_from_floats`]
pub(in crate::cpu) struct FromFloats<'a, R> {
    pub floats: &'a [f32],
    pub values: &'a mut [R],
}

impl<R: Real> Loop for FromFloats<'_, R> {
    #[inline(always)]
    fn run(self) {
        R::copy_from_floats(self.floats, self.values);
    }
}

/// The first `len` values of `buffer`, which grows if it is too short.
pub(in crate::cpu) fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// `target [cols][target_stride] = source [rows][cols]ᵀ`, in blocks that stay in L1.
pub(in crate::cpu) fn transpose<R: Real>(
    set: Instructions,
    source: &[R],
    cols: usize,
    target: &mut [f32],
    target_stride: usize,
) {
    set.run(Transpose { source, cols, target, target_stride });
}

struct Transpose<'a, R> {
    source: &'a [R],
    cols: usize,
    target: &'a mut [f32],
    target_stride: usize,
}

impl<R: Real> Loop for Transpose<'_, R> {
    #[inline(always)]
    fn run(self) {
        const BLOCK: usize = 16;
        let Self { source, cols, target, target_stride } = self;
        for begin in (0..cols).step_by(BLOCK) {
            let end = (begin + BLOCK).min(cols);
            for (row, source) in source.chunks_exact(cols).enumerate() {
                for (col, value) in source[begin..end].iter().enumerate() {
                    target[(begin + col) * target_stride + row] = value.get();
                }
            }
        }
    }
}

/// Packs the first `cols` columns of `rows` rows of `source`, with row stride `stride`, into `target [panel][rows][PANEL]`.
/// The last panel has only as many columns as remain.
pub(in crate::cpu) fn pack_panels<R: Real>(
    set: Instructions,
    source: &[R],
    stride: usize,
    (rows, cols): (usize, usize),
    target: &mut [f32],
) {
    set.run(PackPanels { source, stride, rows, cols, target });
}

struct PackPanels<'a, R> {
    source: &'a [R],
    stride: usize,
    rows: usize,
    cols: usize,
    target: &'a mut [f32],
}

impl<R: Real> Loop for PackPanels<'_, R> {
    #[inline(always)]
    fn run(self) {
        let Self { source, stride, rows, cols, target } = self;
        for (panel, target) in target[..rows * cols].chunks_mut(rows * PANEL).enumerate() {
            let width = target.len() / rows;
            for (row, target) in target.chunks_exact_mut(width).enumerate() {
                R::copy_to_floats(&source[row * stride + panel * PANEL..][..width], target);
            }
        }
    }
}

/// Adds the terms at `at` in each group of `len` floats to `sum`, one group after the other.
pub(in crate::cpu) fn add_groups(set: Instructions, groups: &[f32], len: usize, at: usize, sum: &mut [f32]) {
    set.run(AddGroups { groups, len, at, sum });
}

struct AddGroups<'a> {
    groups: &'a [f32],
    len: usize,
    at: usize,
    sum: &'a mut [f32],
}

impl Loop for AddGroups<'_> {
    #[inline(always)]
    fn run(self) {
        for group in self.groups.chunks_exact(self.len) {
            self.sum.iter_mut().zip(&group[self.at..]).for_each(|(sum, term)| *sum += term);
        }
    }
}

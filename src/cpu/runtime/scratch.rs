//! Memory for intermediate values, kept between steps so that none allocates, and how matrices are laid out in it.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::ops::{Conv2d, Region, Span};

/// Columns of a panel: two vectors of the widest instructions. Panels make the right side of a product contiguous.
pub(in crate::cpu) const PANEL: usize = 32;

/// Pieces that a convolution's weight gradient is cut into at least, and groups of output lines at most.
const WEIGHT_PIECES: usize = 8;

/// Floats that the groups' sums may take: more of them cost more to write and to add than what they are sums of.
const MOST_PARTIALS: usize = 1 << 22;

/// Groups of output lines whose sums of weight gradients are kept apart, each of `len` floats and cut into `pieces` too.
pub(in crate::cpu) fn weight_groups(len: usize, pieces: usize) -> usize {
    WEIGHT_PIECES.min((MOST_PARTIALS / len).max(WEIGHT_PIECES.div_ceil(pieces)))
}

/// What all threads share.
#[derive(Default)]
pub(in crate::cpu) struct Scratch {
    /// Weights or inputs in the order in which a product reads them.
    pub packed: Vec<f32>,
    /// Results that are still to be summed or put in order.
    pub partials: Vec<f32>,
}

/// The weights of convolutions in the order in which a forward pass reads them, made again only where the parameters
/// have changed. They are known by where they lie.
#[derive(Default)]
pub(in crate::cpu) struct Kept(HashMap<usize, KeptWeights>);

struct KeptWeights {
    op: Conv2d,
    /// Of the parameters that they were made from; none while they are made, and of what is no parameter, which may
    /// change without a word.
    version: Option<u64>,
    values: Vec<f32>,
}

impl Kept {
    /// `len` floats that `make` wrote from parameters of this version.
    pub fn weights(
        &mut self,
        op: &Conv2d,
        weight: Span,
        version: u64,
        len: usize,
        make: impl FnOnce(&mut [f32]),
    ) -> &[f32] {
        let fresh = || KeptWeights { op: *op, version: None, values: Vec::new() };
        let kept = self.0.entry(weight.offset).or_insert_with(fresh);
        let is_parameter = weight.region == Region::Parameters;
        let current = is_parameter && kept.version == Some(version) && kept.op == *op;
        if !current || kept.values.len() != len {
            kept.version = None;
            kept.values.resize(len, 0.0);
            make(&mut kept.values);
            (kept.op, kept.version) = (*op, is_parameter.then_some(version));
        }
        &kept.values
    }
}

/// A thread's own buffers, which may be in use at the same time.
#[derive(Clone, Copy)]
pub(in crate::cpu) enum Buffer {
    /// An image with its padding.
    Padded,
    /// One side of a product.
    Packed,
    /// Tiles of an image, transformed.
    Tiles,
    /// Products of such tiles, or tiles of another image.
    Products,
}

thread_local! {
    static BUFFERS: [RefCell<Vec<f32>>; 4] = const { [const { RefCell::new(Vec::new()) }; 4] };
}

/// Runs `body` with `len` floats of one of this thread's buffers, whose contents are left over from earlier use.
pub(in crate::cpu) fn with<R>(buffer: Buffer, len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    BUFFERS.with(|buffers| body(grown(&mut buffers[buffer as usize].borrow_mut(), len)))
}

/// The first `len` values of `buffer`, which grows if it is too short.
pub(in crate::cpu) fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// `target [cols][target_stride] = source [rows][cols]ᵀ`, in blocks that stay in L1.
#[inline(always)]
pub(in crate::cpu) fn transpose(source: &[f32], cols: usize, target: &mut [f32], target_stride: usize) {
    const BLOCK: usize = 16;
    for begin in (0..cols).step_by(BLOCK) {
        let end = (begin + BLOCK).min(cols);
        for (row, source) in source.chunks_exact(cols).enumerate() {
            for (col, value) in source[begin..end].iter().enumerate() {
                target[(begin + col) * target_stride + row] = *value;
            }
        }
    }
}

/// `target [panel][rows][PANEL]` from the first `cols` columns of `source`, whose rows are `stride` apart; the last
/// panel is as narrow as its columns.
pub(in crate::cpu) fn pack_panels(source: &[f32], stride: usize, cols: usize, target: &mut [f32], rows: usize) {
    for (panel, target) in target[..rows * cols].chunks_mut(rows * PANEL).enumerate() {
        let width = target.len() / rows;
        for (row, target) in target.chunks_exact_mut(width).enumerate() {
            target.copy_from_slice(&source[row * stride + panel * PANEL..][..width]);
        }
    }
}

//! The six transform matrices of Winograd's F(2×2, 3×3) and its gradients, as operations on vectors.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), with opposite signs in the last row of
//! `Bᵀ` and the last column of `Aᵀ`, which saves a negation. An output tile is `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`. It is
//! linear in the weights `g` and in the input `d`, so the gradients use the transposed matrices.

use crate::cpu::gemm::vector::Vector;

/// A transform matrix, as an operation on at most four values.
pub(in crate::cpu) trait TransformMatrix {
    const FROM: usize;
    const TO: usize;
    /// Whether results are added to the existing values.
    const ACCUMULATES: bool = false;
    /// Whether a bias and an activation may follow.
    const HAS_EPILOGUE: bool = false;

    /// # Safety
    /// The machine must support `V`'s instructions.
    unsafe fn apply<V: Vector>(values: [V; 4]) -> [V; 4];
}

/// `M values Mᵀ`
///
/// # Safety
/// The machine must support `V`'s instructions.
#[inline(always)]
pub(in crate::cpu) unsafe fn transform_2d<V: Vector, M: TransformMatrix>(values: [[V; 4]; 4]) -> [[V; 4]; 4] {
    // SAFETY: the caller upholds the contract.
    unsafe {
        let mut rows = [[V::splat(0.0); 4]; 4];
        for y in 0..M::FROM {
            rows[y] = M::apply(values[y]);
        }
        let mut both = [[V::splat(0.0); 4]; 4];
        for x in 0..M::TO {
            let column = M::apply([rows[0][x], rows[1][x], rows[2][x], rows[3][x]]);
            for y in 0..M::TO {
                both[y][x] = column[y];
            }
        }
        both
    }
}

/// `Bᵀ`
pub(in crate::cpu) struct Input;
/// `Aᵀ`
pub(in crate::cpu) struct Output;
/// `G`
pub(in crate::cpu) struct Weight;
/// `B`
pub(in crate::cpu) struct InputGradient;
/// `A`
pub(in crate::cpu) struct OutputGradient;
/// `Gᵀ`
pub(in crate::cpu) struct WeightGradient;

// SAFETY of all bodies: the caller guarantees support for `V`'s instructions.

impl TransformMatrix for Input {
    const FROM: usize = 4;
    const TO: usize = 4;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
        // SAFETY: the caller upholds the contract.
        unsafe { [a.sub(c), b.add(c), c.sub(b), d.sub(b)] }
    }
}

impl TransformMatrix for InputGradient {
    const FROM: usize = 4;
    const TO: usize = 4;
    const ACCUMULATES: bool = true;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
        // SAFETY: the caller upholds the contract.
        unsafe { [a, b.sub(c).sub(d), b.add(c).sub(a), d] }
    }
}

impl TransformMatrix for Output {
    const FROM: usize = 4;
    const TO: usize = 2;
    const HAS_EPILOGUE: bool = true;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
        // SAFETY: the caller upholds the contract.
        unsafe { [a.add(b.add(c)), b.sub(c).add(d), V::splat(0.0), V::splat(0.0)] }
    }
}

impl TransformMatrix for OutputGradient {
    const FROM: usize = 2;
    const TO: usize = 4;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, ..]: [V; 4]) -> [V; 4] {
        // SAFETY: the caller upholds the contract.
        unsafe { [a, a.add(b), a.sub(b), b] }
    }
}

impl TransformMatrix for Weight {
    const FROM: usize = 3;
    const TO: usize = 4;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, _]: [V; 4]) -> [V; 4] {
        // SAFETY: the caller upholds the contract.
        unsafe {
            let (half, outer) = (V::splat(0.5), a.add(c));
            [a, half.mul(outer.add(b)), half.mul(outer.sub(b)), c]
        }
    }
}

impl TransformMatrix for WeightGradient {
    const FROM: usize = 4;
    const TO: usize = 3;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
        // SAFETY: the caller upholds the contract.
        unsafe {
            let half = V::splat(0.5);
            let sum = half.mul(b.add(c));
            [a.add(sum), half.mul(b.sub(c)), sum.add(d), V::splat(0.0)]
        }
    }
}

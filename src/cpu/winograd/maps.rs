//! The transform matrices of Winograd's F(4×4, 3×3) and its gradients, as operations on vectors.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). An output tile is
//! `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`. It is linear in the weights `g` and in the input `d`, so the weight gradient uses the
//! transposed matrices; the input gradient is the convolution of the output gradient with the flipped weights.
//!
//! The matrices follow from six points at which polynomials are multiplied: 0, ±P, ±Q and infinity. The points decide how
//! much rounding errors grow. With the usual 0, ±1, ±2 the error of random sums over 64 channels is 4 times that of direct
//! summation, with these it is twice as large; and all constants but those of `G` are exact.

use crate::cpu::Real;
use crate::cpu::gemm::vector::Vector;

/// Pixels per side of an output tile, and of the input that it depends on.
pub(in crate::cpu) const TILE: usize = 4;
pub(in crate::cpu) const SIDE: usize = 6;

const P: f32 = 0.75;
const Q: f32 = 1.5;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// `x (x² − P²) (x² − Q²) = x⁵ − SUM x³ + PRODUCT x`
const SUM: f32 = P2 + Q2;
const PRODUCT: f32 = P2 * Q2;
/// The derivatives of that polynomial at 0, ±P and ±Q, inverted.
const AT_0: f32 = 1.0 / PRODUCT;
const AT_P: f32 = 1.0 / (2.0 * P2 * (P2 - Q2));
const AT_Q: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2));

/// A transform matrix, as an operation on at most six values.
pub(in crate::cpu) trait TransformMatrix {
    const FROM: usize;
    const TO: usize;

    /// # Safety
    /// The machine must support `V`'s instructions.
    unsafe fn apply<V: Vector>(values: [V; SIDE]) -> [V; SIDE];
}

/// The rows and columns of a tile that lie within the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Clip {
    pub rows: (usize, usize),
    pub cols: (usize, usize),
}

impl Clip {
    /// The whole tile.
    pub const NONE: Self = Self { rows: (0, SIDE), cols: (0, SIDE) };

    pub fn is_whole(&self) -> bool {
        self.rows == Self::NONE.rows && self.cols == Self::NONE.cols
    }

    /// The same for a tile of `side` × `side` pixels: [`Clip::NONE`] if all of them lie within the image.
    pub fn within(self, side: usize) -> Self {
        let along = |(first, end): (usize, usize)| (first.min(side), if end >= side { SIDE } else { end });
        Self { rows: along(self.rows), cols: along(self.cols) }
    }

    #[inline(always)]
    pub fn has_row(&self, y: usize) -> bool {
        (self.rows.0..self.rows.1).contains(&y)
    }

    #[inline(always)]
    pub fn has_col(&self, x: usize) -> bool {
        (self.cols.0..self.cols.1).contains(&x)
    }
}

/// `values Mᵀ`, for the values at `from`, whose lines and pixels have the given strides. With `CLIPPED`, pixels outside
/// `clip` are zeros.
///
/// # Safety
/// `M::FROM` × `M::FROM` vectors must be readable, except outside `clip`. The machine must support `V`'s instructions.
#[inline(always)]
pub(in crate::cpu) unsafe fn transform_rows<V: Vector, M: TransformMatrix, R: Real, const CLIPPED: bool>(
    from: *const R,
    (line, pixel): (usize, usize),
    clip: &Clip,
) -> [[V; SIDE]; SIDE] {
    // SAFETY: the caller upholds the contract.
    unsafe {
        let zero = V::splat(0.0);
        // Not a loop over a zeroed array: the compiler would clear it first.
        macro_rules! pixel {
            ($y:literal, $x:literal) => {
                match ($x < M::FROM, CLIPPED) {
                    (true, true) => R::load_if::<V>(from.wrapping_add($y * line + $x * pixel), clip.has_col($x)),
                    (true, false) => R::load::<V>(from.wrapping_add($y * line + $x * pixel)),
                    (false, _) => zero,
                }
            };
        }
        macro_rules! row {
            ($y:literal) => {
                match $y < M::FROM && (!CLIPPED || clip.has_row($y)) {
                    true => M::apply([
                        pixel!($y, 0),
                        pixel!($y, 1),
                        pixel!($y, 2),
                        pixel!($y, 3),
                        pixel!($y, 4),
                        pixel!($y, 5),
                    ]),
                    false => [zero; SIDE],
                }
            };
        }
        [row!(0), row!(1), row!(2), row!(3), row!(4), row!(5)]
    }
}

/// Column `x` of `M rows`.
///
/// # Safety
/// The machine must support `V`'s instructions.
#[inline(always)]
pub(in crate::cpu) unsafe fn transform_column<V: Vector, M: TransformMatrix>(
    rows: &[[V; SIDE]; SIDE],
    x: usize,
) -> [V; SIDE] {
    // SAFETY: the caller upholds the contract.
    unsafe { M::apply([rows[0][x], rows[1][x], rows[2][x], rows[3][x], rows[4][x], rows[5][x]]) }
}

/// `Bᵀ`
pub(in crate::cpu) struct Input;
/// `Aᵀ`
pub(in crate::cpu) struct Output;
/// `G`
pub(in crate::cpu) struct Weight;
/// `G` of the flipped kernel
pub(in crate::cpu) struct FlippedWeight;
/// `A`
pub(in crate::cpu) struct OutputGradient;
/// `Gᵀ`
pub(in crate::cpu) struct WeightGradient;

// SAFETY of all bodies: the caller guarantees support for `V`'s instructions.

impl TransformMatrix for Input {
    const FROM: usize = 6;
    const TO: usize = 6;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d, e, f]: [V; SIDE]) -> [V; SIDE] {
        // SAFETY: the caller upholds the contract.
        unsafe {
            let (even_p, odd_p) = (c.multiply_add(V::splat(-Q2), e), b.multiply_add(V::splat(-Q2), d));
            let (even_q, odd_q) = (c.multiply_add(V::splat(-P2), e), b.multiply_add(V::splat(-P2), d));
            [
                a.multiply_add(V::splat(PRODUCT), c.multiply_add(V::splat(-SUM), e)),
                odd_p.multiply_add(V::splat(P), even_p),
                odd_p.multiply_add(V::splat(-P), even_p),
                odd_q.multiply_add(V::splat(Q), even_q),
                odd_q.multiply_add(V::splat(-Q), even_q),
                b.multiply_add(V::splat(PRODUCT), d.multiply_add(V::splat(-SUM), f)),
            ]
        }
    }
}

impl TransformMatrix for Output {
    const FROM: usize = 6;
    const TO: usize = 4;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d, e, f]: [V; SIDE]) -> [V; SIDE] {
        // SAFETY: the caller upholds the contract.
        unsafe {
            let (sum_p, difference_p, sum_q, difference_q) = (b.add(c), b.sub(c), d.add(e), d.sub(e));
            let zero = V::splat(0.0);
            [
                a.add(sum_p.add(sum_q)),
                difference_q.multiply_add(V::splat(Q), difference_p.mul(V::splat(P))),
                sum_q.multiply_add(V::splat(Q2), sum_p.mul(V::splat(P2))),
                difference_q.multiply_add(V::splat(Q * Q2), difference_p.multiply_add(V::splat(P * P2), f)),
                zero,
                zero,
            ]
        }
    }
}

impl TransformMatrix for OutputGradient {
    const FROM: usize = 4;
    const TO: usize = 6;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d, ..]: [V; SIDE]) -> [V; SIDE] {
        // SAFETY: the caller upholds the contract.
        unsafe {
            let (even_p, odd_p) = (c.multiply_add(V::splat(P2), a), d.multiply_add(V::splat(P2), b));
            let (even_q, odd_q) = (c.multiply_add(V::splat(Q2), a), d.multiply_add(V::splat(Q2), b));
            [
                a,
                odd_p.multiply_add(V::splat(P), even_p),
                odd_p.multiply_add(V::splat(-P), even_p),
                odd_q.multiply_add(V::splat(Q), even_q),
                odd_q.multiply_add(V::splat(-Q), even_q),
                d,
            ]
        }
    }
}

impl TransformMatrix for Weight {
    const FROM: usize = 3;
    const TO: usize = 6;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, ..]: [V; SIDE]) -> [V; SIDE] {
        // SAFETY: the caller upholds the contract.
        unsafe {
            let (even_p, even_q) = (c.multiply_add(V::splat(P2), a), c.multiply_add(V::splat(Q2), a));
            [
                a.mul(V::splat(AT_0)),
                b.multiply_add(V::splat(P), even_p).mul(V::splat(AT_P)),
                b.multiply_add(V::splat(-P), even_p).mul(V::splat(AT_P)),
                b.multiply_add(V::splat(Q), even_q).mul(V::splat(AT_Q)),
                b.multiply_add(V::splat(-Q), even_q).mul(V::splat(AT_Q)),
                c,
            ]
        }
    }
}

impl TransformMatrix for FlippedWeight {
    const FROM: usize = 3;
    const TO: usize = 6;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d, e, f]: [V; SIDE]) -> [V; SIDE] {
        // SAFETY: the caller upholds the contract.
        unsafe { Weight::apply([c, b, a, d, e, f]) }
    }
}

impl TransformMatrix for WeightGradient {
    const FROM: usize = 6;
    const TO: usize = 3;

    #[inline(always)]
    unsafe fn apply<V: Vector>([a, b, c, d, e, f]: [V; SIDE]) -> [V; SIDE] {
        // SAFETY: the caller upholds the contract.
        unsafe {
            let (sum_p, difference_p) = (b.add(c).mul(V::splat(AT_P)), b.sub(c).mul(V::splat(AT_P)));
            let (sum_q, difference_q) = (d.add(e).mul(V::splat(AT_Q)), d.sub(e).mul(V::splat(AT_Q)));
            let zero = V::splat(0.0);
            [
                a.multiply_add(V::splat(AT_0), sum_p.add(sum_q)),
                difference_q.multiply_add(V::splat(Q), difference_p.mul(V::splat(P))),
                sum_q.multiply_add(V::splat(Q2), sum_p.multiply_add(V::splat(P2), f)),
                zero,
                zero,
                zero,
            ]
        }
    }
}

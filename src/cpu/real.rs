//! The number formats of activations. Arithmetic is f32 in both; a bf16 is converted where it is read and written.

use half::bf16;

use super::gemm::vector::{Vector, round, widen};
use crate::ops::Precision;

/// A number format of activations, their gradients, and the weights that products read.
pub(super) trait Real: Copy + PartialEq + Send + Sync + 'static {
    const PRECISION: Precision;
    const ZERO: Self;

    /// The value, exactly.
    fn get(self) -> f32;

    /// The nearest value of the format; of two, the even one.
    fn new(value: f32) -> Self;

    /// Copies values to as many floats.
    fn copy_to_floats(values: &[Self], floats: &mut [f32]);

    /// Copies floats, rounded, to as many values.
    fn copy_from_floats(floats: &[f32], values: &mut [Self]);

    /// The values if they are floats.
    fn as_floats(_values: &[Self]) -> Option<&[f32]> {
        None
    }

    /// The same to write.
    fn as_floats_mut(_values: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    /// The values if they are bf16.
    fn as_bf16(_values: &[Self]) -> Option<&[bf16]> {
        None
    }

    /// The inverse of [`Real::as_floats_mut`].
    fn of_floats(_values: &mut [f32]) -> Option<&mut [Self]> {
        None
    }

    /// The bf16 if they are of this format.
    fn of_bf16(_values: &mut [bf16]) -> Option<&mut [Self]> {
        None
    }

    /// # Safety
    /// See [`Vector::load`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;

    /// # Safety
    /// See [`Vector::load_if`].
    unsafe fn load_if<V: Vector>(from: *const Self, condition: bool) -> V;

    /// # Safety
    /// See [`Vector::store`].
    unsafe fn store<V: Vector>(vector: V, to: *mut Self);
}

impl Real for f32 {
    const PRECISION: Precision = Precision::Fp32;
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn new(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn copy_to_floats(values: &[Self], floats: &mut [f32]) {
        floats.copy_from_slice(values);
    }

    #[inline(always)]
    fn copy_from_floats(floats: &[f32], values: &mut [Self]) {
        values.copy_from_slice(floats);
    }

    fn as_floats(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    fn as_floats_mut(values: &mut [Self]) -> Option<&mut [f32]> {
        Some(values)
    }

    fn of_floats(values: &mut [f32]) -> Option<&mut [Self]> {
        Some(values)
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller upholds the contract.
        unsafe { V::load(from) }
    }

    #[inline(always)]
    unsafe fn load_if<V: Vector>(from: *const Self, condition: bool) -> V {
        // SAFETY: the caller upholds the contract.
        unsafe { V::load_if(from, condition) }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(vector: V, to: *mut Self) {
        // SAFETY: the caller upholds the contract.
        unsafe { vector.store(to) }
    }
}

impl Real for bf16 {
    const PRECISION: Precision = Precision::Bf16;
    const ZERO: Self = bf16::ZERO;

    #[inline(always)]
    fn get(self) -> f32 {
        widen(self)
    }

    #[inline(always)]
    fn new(value: f32) -> Self {
        round(value)
    }

    #[inline(always)]
    fn copy_to_floats(values: &[Self], floats: &mut [f32]) {
        assert_eq!(values.len(), floats.len());
        floats.iter_mut().zip(values).for_each(|(float, value)| *float = widen(*value));
    }

    #[inline(always)]
    fn copy_from_floats(floats: &[f32], values: &mut [Self]) {
        assert_eq!(values.len(), floats.len());
        values.iter_mut().zip(floats).for_each(|(value, float)| *value = round(*float));
    }

    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        Some(values)
    }

    fn of_bf16(values: &mut [bf16]) -> Option<&mut [Self]> {
        Some(values)
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller upholds the contract.
        unsafe { V::load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn load_if<V: Vector>(from: *const Self, condition: bool) -> V {
        // SAFETY: the caller upholds the contract.
        unsafe { if condition { V::load_bf16(from) } else { V::splat(0.0) } }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(vector: V, to: *mut Self) {
        // SAFETY: the caller upholds the contract.
        unsafe { vector.store_bf16(to) }
    }
}

//! The minimum work of a step: its arithmetic, and the bytes of its operands.

use crate::ops::{Op, Precision, Region, Span};

/// The minimum work of a step, to compare its time with the device's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: f64,
    /// Bytes of every operand, counted once.
    pub bytes: f64,
}

impl Cost {
    /// The cost in fp32.
    pub fn of(op: &Op) -> Self {
        Self::stored(op, Precision::Fp32)
    }

    /// The cost of a product, which reads weights in the storage type of activations.
    pub fn stored(op: &Op, precision: Precision) -> Self {
        let (operands, len) = (op.operands(), &|span: Span| span.len);
        let bytes = |span: Span| match span.region {
            Region::Arena | Region::Parameters => span.len * precision.real_size(),
            _ => span.len * 4,
        };
        Self { flops: operands.flops(len) as f64, bytes: operands.elements(&bytes) as f64 }
    }
}

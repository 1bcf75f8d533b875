//! The minimum work of a step: its arithmetic, and the bytes of its operands.

use crate::ops::{Op, Span};

/// The minimum work of a step, to compare its time with the device's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: f64,
    /// Bytes of every operand, counted once, in fp32.
    pub bytes: f64,
}

impl Cost {
    pub fn of(op: &Op) -> Self {
        let (operands, len) = (op.operands(), &|span: Span| span.len);
        Self { flops: operands.flops(len) as f64, bytes: 4.0 * operands.elements(len) as f64 }
    }
}

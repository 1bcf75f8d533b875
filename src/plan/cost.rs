//! What a step has to do at the least: arithmetic, and bytes read and written once.

use crate::ops::{Op, Span};

/// The least work of a step, from which its share of the machine's limits follows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add is two.
    pub flops: f64,
    /// Bytes of every operand, once, in fp32.
    pub bytes: f64,
}

impl Cost {
    pub fn of(op: &Op) -> Self {
        let (operands, len) = (op.operands(), &|span: Span| span.len);
        Self { flops: operands.flops(len) as f64, bytes: 4.0 * operands.elements(len) as f64 }
    }
}

//! Activations on CUDA.

use anyhow::Result;

use super::Cuda;
use super::kernels::Arg;
use crate::ops::{Activation, ActivationOps, Span};

impl ActivationOps for Cuda {
    fn activation_forward(&mut self, op: Activation, len: usize, input: Span, output: Span) -> Result<()> {
        let slope = Arg::F32(op.code());
        let args = [self.pointer(input.first(len))?, self.pointer(output.first(len))?, Arg::U64(len as u64), slope];
        self.launch("activation_forward", len.div_ceil(self.vector()), &args)
    }

    fn activation_backward(
        &mut self,
        op: Activation,
        len: usize,
        output: Span,
        d_output: Span,
        d_input: Span,
    ) -> Result<()> {
        let [y, d_y, d_x] = [output, d_output, d_input].map(|span| self.pointer(span.first(len)));
        let args = [y?, d_y?, d_x?, Arg::U64(len as u64), Arg::F32(op.code())];
        self.launch("activation_backward", len.div_ceil(self.vector()), &args)
    }
}

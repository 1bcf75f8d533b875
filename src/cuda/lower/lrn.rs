//! Local response normalisation, a thread for each value.

use anyhow::Result;

use super::{Lowering, u32_of};
use crate::cuda::program::{Address, params};
use crate::ops::{Lrn, LrnBackward, LrnForward, RunOn, Span};

params!(
    LrnParams, 56 bytes,
    [input, d_output, output],
    count: u64, channels: u32, size: u32, alpha: f32, beta: f32, k: f32
);

impl RunOn<Lowering<'_>> for LrnForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.lrn("lrn_forward", &self.op, self.input, None, self.output)
    }
}

impl RunOn<Lowering<'_>> for LrnBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lowering.lrn("lrn_backward", &self.op, self.input, Some(self.d_output), self.d_input)
    }
}

impl Lowering<'_> {
    fn lrn(&mut self, kernel: &str, op: &Lrn, input: Span, d_output: Option<Span>, output: Span) -> Result<()> {
        let params = LrnParams {
            input: self.address(input),
            d_output: self.optional(d_output),
            output: self.address(output),
            count: output.len as u64,
            channels: u32_of(op.input.channels)?,
            size: u32_of(op.size)?,
            alpha: op.alpha,
            beta: op.beta,
            k: op.k,
        };
        self.launch_over(kernel, output.len, &params)
    }
}

//! Local response normalisation, one thread per value.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::ops::{Lrn, LrnBackward, LrnForward, RunOn, Span};
use crate::shape::Shape;

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
        let Lrn { input: Shape { channels, .. }, size, alpha, beta, k } = *op;
        let params = params!(
            self.target, 56 bytes, [input, d_output, output],
            count: u64 = output.len, channels: u32, size: u32, alpha: f32, beta: f32, k: f32,
        );
        self.launch_over(kernel, output.len, params)
    }
}

//! Functions of single values, 16 bytes per thread.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::ops::{Function, PointwiseBackward, PointwiseForward, RunOn, Span};

impl RunOn<Lowering<'_>> for PointwiseForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        match self.op.function {
            Function::Gelu => lowering.pointwise("gelu_forward", None, self.input, self.output, 1.0),
            Function::Scale { factor } => lowering.pointwise("scale_values", None, self.input, self.output, factor),
            Function::Square => lowering.pointwise("square_forward", None, self.input, self.output, 1.0),
            Function::SquareRoot => lowering.pointwise("sqrt_forward", None, self.input, self.output, 1.0),
        }
    }
}

impl RunOn<Lowering<'_>> for PointwiseBackward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, input, d_output, d_input } = *self;
        match op.function {
            Function::Gelu => lowering.pointwise("gelu_backward", Some(input), d_output, d_input, 1.0),
            Function::Scale { factor } => lowering.pointwise("scale_values", None, d_output, d_input, factor),
            Function::Square => lowering.pointwise("square_backward", Some(input), d_output, d_input, 1.0),
            Function::SquareRoot => lowering.pointwise("sqrt_backward", Some(input), d_output, d_input, 1.0),
        }
    }
}

impl Lowering<'_> {
    fn pointwise(&mut self, kernel: &str, x: Option<Span>, input: Span, output: Span, factor: f32) -> Result<()> {
        let params = params!(self.target, 40 bytes, [x, input, output], count: u64 = output.len, factor: f32);
        self.launch_over(kernel, output.len.div_ceil(self.vector()), params)
    }
}

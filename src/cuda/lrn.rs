//! Local response normalisation on CUDA, a thread for each value.

use anyhow::Result;

use super::Cuda;
use super::kernels::{Arg, u32_arg};
use crate::ops::{Lrn, LrnOps, Span};

impl LrnOps for Cuda {
    fn lrn_forward(&mut self, op: &Lrn, rows: usize, input: Span, output: Span) -> Result<()> {
        self.normalise_responses("lrn_forward", op, rows, &[input, output])
    }

    fn lrn_backward(&mut self, op: &Lrn, rows: usize, input: Span, d_output: Span, d_input: Span) -> Result<()> {
        self.normalise_responses("lrn_backward", op, rows, &[input, d_output, d_input])
    }
}

impl Cuda {
    fn normalise_responses(&self, kernel: &str, op: &Lrn, rows: usize, spans: &[Span]) -> Result<()> {
        let count = rows * op.channels;
        let mut args: Vec<Arg> = spans.iter().map(|span| self.pointer(span.first(count))).collect::<Result<_>>()?;
        args.extend([Arg::U64(count as u64), u32_arg(op.channels)?, u32_arg(op.size)?]);
        args.extend([op.alpha, op.beta, op.k].map(Arg::F32));
        self.launch(kernel, count, &args)
    }
}

//! Dropout on CUDA, with seed and step in device memory, where a recorded step finds them.

use std::sync::Arc;

use anyhow::Result;
use cudarc::driver::CudaStream;

use super::Cuda;
use super::kernels::Arg;
use super::memory::Pinned;
use crate::ops::{Dropout, DropoutOps, Span};

/// What outlives a step: `{seed u64, step u64}`.
pub(super) struct State(Pinned);

impl State {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let mut state = Pinned::new(stream, 16)?;
        state.write(stream, &[0; 16])?;
        Ok(Self(state))
    }

    fn address(&self) -> Arg {
        Arg::Pointer(self.0.device.address())
    }
}

impl DropoutOps for Cuda {
    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()> {
        self.dropout.0.write(&self.stream, &[seed, step].map(u64::to_le_bytes).concat())
    }

    fn dropout(&mut self, op: &Dropout, len: usize, input: Span, output: Span) -> Result<()> {
        let args = [
            self.pointer(input.first(len))?,
            self.pointer(output.first(len))?,
            self.dropout.address(),
            Arg::U64(len as u64),
            Arg::U32(op.index),
            Arg::U32(op.threshold()),
            Arg::F32(op.scale()),
        ];
        self.launch("dropout", len.div_ceil(self.vector()), &args)
    }

    fn next_dropout_step(&mut self) -> Result<()> {
        self.launch("next_dropout_step", 1, &[self.dropout.address()])
    }
}

//! A backend with a small memory, in which tests place tensors explicitly.

use anyhow::Result;
use cnn_cuda::ops::{Backend, Groups, MemorySizes, Op, Optimizer, OptimizerUpdate, Region, Span, Step};
use cnn_cuda::rng::{Philox, Purpose};

/// The number of elements in every region of a lab; Miri would take minutes to allocate as many as other tests need.
const SIZE: usize = if cfg!(miri) { 1 << 12 } else { 1 << 20 };

/// Allocates spans one after another.
pub struct Lab<B> {
    pub backend: B,
    used: usize,
    size: usize,
}

impl<B: Backend> Lab<B> {
    pub fn new(backend: B) -> Self {
        Self::with_sizes(backend, &sizes_with_columns(SIZE, SIZE))
    }

    /// A lab with these sizes; no region that it uses may be smaller than `sizes.arena`.
    pub fn with_sizes(mut backend: B, sizes: &MemorySizes) -> Self {
        backend.allocate(sizes).expect("a few megabytes");
        Self { backend, used: 0, size: sizes.arena }
    }

    /// Frees all spans.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// A span filled with NaN, so that missing writes show.
    pub fn empty(&mut self, region: Region, len: usize) -> Span {
        let span = Span::new(region, self.used, len);
        self.used += len.next_multiple_of(64);
        assert!(self.used <= self.size, "the lab is too small for this test");
        if region != Region::Indices {
            self.backend.write(span, &vec![f32::NAN; len]).expect("write");
        }
        span
    }

    pub fn put(&mut self, region: Region, values: &[f32]) -> Span {
        let span = self.empty(region, values.len());
        self.backend.write(span, values).expect("write");
        span
    }

    pub fn get(&mut self, span: Span) -> Vec<f32> {
        self.backend.read(span).expect("read")
    }

    /// Runs a program of one operator.
    pub fn run(&mut self, op: impl Into<Op>) {
        self.try_run(op).unwrap_or_else(|error| panic!("{error:#}"));
    }

    pub fn try_run(&mut self, op: impl Into<Op>) -> Result<()> {
        let op = op.into();
        let mut program = self.backend.compile(vec![Step { label: op.operands().describe(), op }])?;
        self.backend.run(&mut program)
    }
}

/// The sizes of a lab's regions, with the im2col columns that a plan would request.
pub fn sizes_with_columns(columns: usize, sample_columns: usize) -> MemorySizes {
    MemorySizes {
        arena: SIZE,
        parameters: SIZE,
        gradients: SIZE,
        gradient_sum: SIZE,
        momentum: SIZE,
        second_moment: SIZE,
        average: SIZE,
        statistics: SIZE,
        indices: SIZE,
        sample_arena: 0,
        sample_indices: 0,
        columns,
        sample_columns,
        staged: [0; 4],
        directions: SIZE,
        max_channels: 2048,
        max_batch: 1024,
    }
}

/// An update of the first `count` parameters.
pub fn optimizer_update(op: Optimizer, count: usize) -> OptimizerUpdate {
    grouped_update(op, Groups::default(), count)
}

/// The same in groups.
pub fn grouped_update(op: Optimizer, groups: Groups, count: usize) -> OptimizerUpdate {
    OptimizerUpdate::new(op, groups, OptimizerUpdate::REGIONS.map(|region| Span::new(region, 0, count)))
}

/// Random values in ±1 that fp16 represents exactly, so that every precision starts from the same numbers.
pub fn random(len: usize, stream: u32) -> Vec<f32> {
    let mut stream = Philox::new(7, Purpose::Benchmark, stream);
    (0..len).map(|_| half::f16::from_f32(stream.uniform(-1.0, 1.0)).to_f32()).collect()
}

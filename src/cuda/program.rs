//! What a device is to run, as plain data: launches with their parameters, addresses by name. No device is needed to make
//! or to read it.

use std::ops::RangeToInclusive;

use anyhow::{Result, bail};

use super::gemm::{Gemm, LtEpilogue};
use crate::ops::{Precision, Region, Step, Subset};

/// A buffer in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Buffer {
    // Regions and scratch of a plan, up to `BlockCounters`.
    Arena,
    Parameters,
    /// With fp16 storage the rounded copy that products read, in the same order.
    HalfParameters,
    Gradients,
    Momentum,
    Average,
    Statistics,
    Indices,
    /// The columns of a convolution, as many as fit.
    Columns,
    /// Partial sums of reductions, and how many of their blocks are done: zero between launches.
    Partials,
    BlockCounters,
    // Scratch of all plans.
    /// Parts of split products, column sums of their tiles, and how many blocks are done.
    ProductPartials,
    ColumnSums,
    ProductCounters,
    // State.
    Labels,
    Metrics,
    /// The latest steps' losses: how many there is room for, then a ring of them.
    StepLog,
    /// `{next u64, last u64, rates f32[]}`, the first two being indices.
    LearningRates,
    LossScaling,
    /// The norm of all gradients, and behind it the sums that it is made of.
    GradientNorm,
    /// `{seed u64, step u64}`
    DropoutStep,
    /// `{seed u64, epoch u64}`
    AugmentationEpoch,
    // The data sets.
    TrainImages,
    TrainLabels,
    TrainOrder,
    TrainPosition,
    TrainMean,
    TrainStd,
    TestImages,
    TestLabels,
    TestOrder,
    TestPosition,
    TestMean,
    TestStd,
}

impl Buffer {
    pub const COUNT: usize = Self::TestStd as usize + 1;

    /// The numbers of those whose sizes a plan decides.
    pub const OF_A_PLAN: RangeToInclusive<usize> = ..=Self::BlockCounters as usize;

    /// The buffers of a data set: images, labels, the order and where in it the next batch begins, means and deviations.
    pub const fn of_set(subset: Subset) -> [Self; 6] {
        use Buffer::*;
        match subset {
            Subset::Train => [TrainImages, TrainLabels, TrainOrder, TrainPosition, TrainMean, TrainStd],
            Subset::Test => [TestImages, TestLabels, TestOrder, TestPosition, TestMean, TestStd],
        }
    }
}

/// A place in a buffer, as parameters hold it until they are launched: the highest byte is the buffer's number plus one, the
/// others are the offset in bytes. Zero is null. Buffers are aligned to 256 bytes, so the offset's alignment is the address's.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address(pub u64);

impl Address {
    pub const NULL: Self = Self(0);
    const SHIFT: u32 = 56;

    pub const fn at(buffer: Buffer) -> Self {
        Self((buffer as u64 + 1) << Self::SHIFT)
    }

    /// So many bytes on.
    pub const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    /// The buffer's number and the bytes from its beginning; none for null.
    pub const fn parts(self) -> Option<(usize, u64)> {
        match self.0 >> Self::SHIFT {
            0 => None,
            number => Some((number as usize - 1, self.0 & ((1 << Self::SHIFT) - 1))),
        }
    }

    pub const fn is_aligned(self, bytes: u64) -> bool {
        self.0.is_multiple_of(bytes)
    }
}

/// The buffer of a region, and the bytes of its elements.
pub(super) fn place(region: Region, precision: Precision) -> (Buffer, usize) {
    match region {
        Region::Arena => (Buffer::Arena, precision.real_size()),
        Region::Parameters => (Buffer::Parameters, 4),
        Region::Gradients => (Buffer::Gradients, 4),
        Region::Momentum => (Buffer::Momentum, 4),
        Region::Average => (Buffer::Average, 4),
        Region::Statistics => (Buffer::Statistics, 4),
        Region::Indices => (Buffer::Indices, 4),
    }
}

/// What a kernel takes: the struct in its file, in words, of which so many of the first are addresses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Params {
    pub words: Vec<u64>,
    pub pointers: usize,
}

/// A kernel's launch. All blocks have [`BLOCK`] threads.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KernelLaunch {
    pub name: String,
    pub grid: [u32; 2],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub params: Params,
}

/// Threads of every block; `BLOCK` in `kernels/common.cuh`.
pub(super) const BLOCK: usize = 256;

/// The largest grid of a grid-stride kernel: enough to fill any device many times over.
const MAX_BLOCKS: usize = 1 << 16;

/// A grid for kernels that cover any `count` of items.
pub(super) fn grid_over(count: usize) -> [usize; 2] {
    [count.div_ceil(BLOCK).clamp(1, MAX_BLOCKS), 1]
}

impl KernelLaunch {
    /// # Errors
    /// Where the grid is beyond 32 bits.
    pub fn new(name: impl Into<String>, grid: [usize; 2], shared: u32, params: Params) -> Result<Self> {
        let name = name.into();
        let [Ok(width), Ok(height)] = grid.map(u32::try_from) else { bail!("a grid of {grid:?} for {name}") };
        Ok(Self { name, grid: [width, height], shared, params })
    }

    /// The parameters, each address replaced by what `resolve` makes of it.
    pub fn resolved(&self, resolve: impl Fn(Address) -> Result<u64>) -> Result<Vec<u64>> {
        let Params { mut words, pointers } = self.params.clone();
        for word in &mut words[..pointers] {
            *word = resolve(Address(*word))?;
        }
        Ok(words)
    }
}

/// One node of a captured graph.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Launch {
    Kernel(KernelLaunch),
    /// A product by cuBLAS.
    Gemm(Gemm<Address>),
    /// A product by cuBLASLt, with what ends it.
    LtGemm(Gemm<Address>, LtEpilogue<Address>),
}

impl Launch {
    /// For people: libraries launch kernels of many names.
    pub fn name(&self) -> &str {
        match self {
            Self::Kernel(launch) => &launch.name,
            Self::Gemm(_) => "cuBLAS product",
            Self::LtGemm(..) => "cuBLASLt product",
        }
    }
}

/// A step of a sequence, and what is launched for it, in order. The step's operands say what is read and written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LoweredStep {
    pub step: Step,
    pub launches: Vec<Launch>,
}

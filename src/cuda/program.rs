//! Lowered programs as plain data: launches with their parameters and symbolic addresses. Building or reading them
//! needs no device.

use std::ops::RangeToInclusive;

use anyhow::{Result, bail};

use super::convolution::Convolution;
use super::gemm::{Gemm, LtEpilogue};
use crate::ops::{Precision, Region, Step, Subset};

/// A buffer in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Buffer {
    // Regions and scratch of a plan, up to `BlockCounters`.
    Arena,
    Parameters,
    /// With 16-bit storage: the parameters rounded to it, in the same order, as matrix products read them.
    RoundedParameters,
    Gradients,
    GradientSum,
    Momentum,
    SecondMoment,
    Average,
    Statistics,
    Indices,
    /// As many im2col columns of a convolution as fit the workspace.
    Columns,
    /// Training images while they are transformed.
    Staged,
    /// The matrices of Muon's iteration.
    Directions,
    /// Partial sums of reductions.
    Partials,
    /// How many blocks of a launch have finished; zero between launches.
    BlockCounters,
    // Scratch shared by all plans.
    /// Partial results of split-K products.
    ProductPartials,
    /// Column sums of the tiles of a product.
    ColumnSums,
    /// How many blocks of a product have finished; zero between launches.
    ProductCounters,
    // State.
    Labels,
    Metrics,
    /// Losses of the latest steps: the capacity, followed by a ring buffer of that many losses.
    StepLog,
    /// `{next u64, last u64, rates f32[]}`; `next` and `last` are indices into `rates`.
    LearningRates,
    /// `{next u64, last u64, mixes}`: how the batches of the following steps are mixed, as in `kernels/mix.cuh`.
    Mixes,
    /// `[classes]`
    ClassWeights,
    LossScaling,
    /// `{updates u64}`: the updates that the optimiser has made.
    UpdateCount,
    /// The norm of all gradients, followed by the partial sums it is computed from.
    GradientNorm,
    /// `{seed u64, step u64}`
    DropoutStep,
    /// `{seed u64, epoch u64}`
    AugmentationEpoch,
    /// What was drawn for the training images of the epoch.
    PictureDraws,
    // The data sets.
    TrainImages,
    TrainLabels,
    TrainOrder,
    TrainPosition,
    /// The image's index in the set at every position of the order. In a streamed set, the order has indices into the
    /// ring of slots instead.
    TrainIndices,
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

    /// Indices of the buffers whose sizes depend on the plan.
    pub const PLANNED: RangeToInclusive<usize> = ..=Self::BlockCounters as usize;

    /// The buffers of a data set: images, labels, the order of the epoch, the position of the next batch in it, and the
    /// means and standard deviations of the channels.
    pub const fn of_set(subset: Subset) -> [Self; 6] {
        use Buffer::*;
        match subset {
            Subset::Train => [TrainImages, TrainLabels, TrainOrder, TrainPosition, TrainMean, TrainStd],
            Subset::Test => [TestImages, TestLabels, TestOrder, TestPosition, TestMean, TestStd],
        }
    }
}

/// A symbolic address, resolved to a device address at launch: the highest byte is the buffer's index plus one, the
/// other bytes are the offset in bytes. Zero is null. Buffers are aligned to 256 bytes, so an offset's alignment (up to
/// 256) is that of its device address.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address(pub u64);

impl Address {
    pub const NULL: Self = Self(0);
    const SHIFT: u32 = 56;

    pub const fn at(buffer: Buffer) -> Self {
        Self((buffer as u64 + 1) << Self::SHIFT)
    }

    /// The address `bytes` further on.
    pub const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    /// The buffer's index and the offset in bytes; `None` for null.
    pub const fn parts(self) -> Option<(usize, u64)> {
        match self.0 >> Self::SHIFT {
            0 => None,
            number => Some((number as usize - 1, self.0 & ((1 << Self::SHIFT) - 1))),
        }
    }

    pub const fn is_aligned(self, bytes: u64) -> bool {
        self.0.is_multiple_of(bytes)
    }

    /// The alignment in bytes, at most `most`, a power of two.
    pub const fn alignment(self, most: u8) -> u8 {
        1 << (self.0 | most as u64).trailing_zeros()
    }
}

/// The buffer of a region, and the size of its elements in bytes.
pub(super) fn region_buffer(region: Region, precision: Precision) -> (Buffer, usize) {
    match region {
        Region::Arena => (Buffer::Arena, precision.real_size()),
        Region::Parameters => (Buffer::Parameters, 4),
        Region::Gradients => (Buffer::Gradients, 4),
        Region::GradientSum => (Buffer::GradientSum, 4),
        Region::Momentum => (Buffer::Momentum, 4),
        Region::SecondMoment => (Buffer::SecondMoment, 4),
        Region::Average => (Buffer::Average, 4),
        Region::Statistics => (Buffer::Statistics, 4),
        Region::Indices => (Buffer::Indices, 4),
    }
}

/// A kernel's parameter struct as 8-byte words; the first `pointer_count` words are addresses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Params {
    pub words: Vec<u64>,
    pub pointer_count: usize,
}

/// The launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KernelLaunch {
    pub name: String,
    pub grid: [u32; 2],
    /// Threads per block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub params: Params,
}

/// Threads per block, unless a kernel declares another number; `BLOCK` in `kernels/common.cuh`.
pub(super) const BLOCK: usize = 256;

/// Largest grid of a grid-stride kernel: enough to fill any device many times over.
const MAX_BLOCKS: usize = 1 << 16;

/// The grid of a grid-stride kernel over `count` items.
pub(super) fn grid_over(count: usize) -> [usize; 2] {
    [count.div_ceil(BLOCK).clamp(1, MAX_BLOCKS), 1]
}

impl KernelLaunch {
    /// A launch of blocks of [`BLOCK`] threads.
    ///
    /// # Errors
    /// If a side of the grid exceeds 32 bits.
    pub fn new(name: impl Into<String>, grid: [usize; 2], shared: u32, params: Params) -> Result<Self> {
        let name = name.into();
        let [Ok(width), Ok(height)] = grid.map(u32::try_from) else {
            bail!("the grid {grid:?} of {name} is too large")
        };
        Ok(Self { name, grid: [width, height], block: BLOCK as u32, shared, params })
    }

    /// The parameters with each symbolic address resolved.
    pub fn resolved(&self, resolve: impl Fn(Address) -> Result<u64>) -> Result<Vec<u64>> {
        let Params { mut words, pointer_count } = self.params.clone();
        for word in &mut words[..pointer_count] {
            *word = resolve(Address(*word))?;
        }
        Ok(words)
    }
}

/// One node of a captured graph.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Launch {
    Kernel(KernelLaunch),
    /// A matrix product by cuBLAS.
    Gemm(Gemm<Address>),
    /// A matrix product by cuBLASLt, with its epilogue.
    LtGemm(Gemm<Address>, LtEpilogue<Address>),
    /// A convolution by cuDNN.
    Cudnn(Convolution<Address>),
}

impl Launch {
    /// A name for display: the kernel's, or the library's, whose kernels have many names.
    pub fn name(&self) -> &str {
        match self {
            Self::Kernel(launch) => &launch.name,
            Self::Gemm(_) => "cuBLAS product",
            Self::LtGemm(..) => "cuBLASLt product",
            Self::Cudnn(_) => "cuDNN convolution",
        }
    }
}

/// A step of a sequence and its launches, in order. The step's operands list the buffers that are read and written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LoweredStep {
    pub step: Step,
    /// The site whose choice decided how it was lowered, if there is one.
    pub site: Option<String>,
    pub launches: Vec<Launch>,
}

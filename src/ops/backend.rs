//! The traits of a backend: named memory, programs of operators, the data sets, and state that persists across steps.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;

use super::augment::Draws;
use super::gather::{Normalise, Subset};
use super::limits::ProcessorLimits;
use super::loss::{Metrics, StepLoss};
use super::mix::Mix;
use super::op::{Op, Step};
use super::optimizer::LossScale;
use super::precision::Precision;
use super::span::Span;
use crate::images::ImageSource;

/// The number of elements of each region, and other sizes that a backend allocates by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySizes {
    pub arena: usize,
    pub parameters: usize,
    pub gradients: usize,
    pub gradient_sum: usize,
    pub momentum: usize,
    pub second_moment: usize,
    pub average: usize,
    pub statistics: usize,
    pub indices: usize,
    /// Arena and index elements per sample, rounded up.
    pub sample_arena: usize,
    pub sample_indices: usize,
    /// Im2col elements of the largest convolution, for a whole batch and for one sample. A backend may work in chunks.
    pub columns: usize,
    pub sample_columns: usize,
    /// Bytes per sample, in each of four parts, of training images while they are transformed.
    pub staged: [usize; 4],
    /// Elements of Muon's iteration on the largest matrix; see `MuonDirection::scratch_len`.
    pub directions: usize,
    /// The largest number of channels or features of a bias.
    pub max_channels: usize,
    /// The largest batch that a program may have.
    pub max_batch: usize,
}

/// The device that a backend runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// A name for display, such as `CPU (2 threads, AVX-512)`.
    pub name: String,
    pub precision: Precision,
}

/// Algorithms for convolutions and linear layers. They differ in speed and in summation order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// cuBLAS GEMM; for a convolution, after im2col.
    Gemm,
    /// Implicit GEMM: one kernel that reads the windows directly from the input.
    Implicit,
    /// A direct kernel for convolutions with one input channel, and those with groups or dilation.
    Direct,
    /// cuBLASLt GEMM with a fused epilogue: bias and activation, or their gradients. For linear layers only.
    CublasLt,
    /// cuDNN, where it is installed. For convolutions only.
    Cudnn,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [Self::Gemm, Self::Implicit, Self::Direct, Self::CublasLt, Self::Cudnn];

    /// The name used by `--conv-algo` and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gemm => "im2col",
            Self::Implicit => "implicit",
            Self::Direct => "direct",
            Self::CublasLt => "cublaslt",
            Self::Cudnn => "cudnn",
        }
    }

    /// The algorithm with the given [`Algorithm::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// One way to compute an operator: an algorithm and, for implicit GEMM, the tile of a block. It is displayed as files
/// name it, such as `im2col` or `implicit 128x32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    pub algorithm: Algorithm,
    /// The tile's name; `None` for the other algorithms.
    pub tile: Option<&'static str>,
}

impl From<Algorithm> for Candidate {
    fn from(algorithm: Algorithm) -> Self {
        Self { algorithm, tile: None }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm.name())?;
        self.tile.map_or(Ok(()), |tile| write!(f, " {tile}"))
    }
}

/// The candidate chosen for an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The operator with its shape, batch size and precision.
    pub site: String,
    pub candidate: Candidate,
    /// The time of each candidate that was timed on this device, in this process or earlier.
    pub microseconds: Vec<(Candidate, f64)>,
}

/// The measured time of one step of a program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSeconds {
    pub seconds: f64,
    /// The number of runs that were timed, at most [`TIMED_RUNS`].
    pub runs: usize,
}

/// The maximum number of times that a step is run to time it.
pub const TIMED_RUNS: usize = 64;

/// Problem sizes for measuring a device's peak arithmetic and memory throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSizes {
    /// Side of a square matrix product that keeps the whole device busy.
    pub product_side: usize,
    /// Elements of a vector several times larger than the device's caches.
    pub vector_len: usize,
}

/// The data sets of a backend.
pub trait DataSets {
    /// Makes a set resident on the device: `images` is `[count][height][width][channels]`, `labels` is `[count]`.
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()>;

    /// Uses a set that is not resident: its images are prefetched from `source`, `max_batch` at a time. Every batch
    /// except the last of an order must have `max_batch` images.
    fn stream_subset(
        &mut self,
        subset: Subset,
        op: &Normalise,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
    ) -> Result<()>;

    /// Sets the order in which images are read, and the position in the order at which the next batch starts. An image
    /// may occur more than once.
    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()>;

    /// Sets the epoch for which augmentations are drawn.
    fn set_augmentation_epoch(&mut self, seed: u64, epoch: u32) -> Result<()>;

    /// Sets what is drawn for the training images of the epoch, by their position in the order.
    fn set_draws(&mut self, draws: Draws) -> Result<()>;

    /// Sets the labels for the next loss, for a sequence without a gather.
    fn set_labels(&mut self, labels: &[u32]) -> Result<()>;
}

/// Training state that persists across steps, apart from parameters and their gradients.
pub trait TrainingState {
    /// Sets the metrics to `metrics`: zero, or the metrics of an interrupted epoch.
    fn set_metrics(&mut self, metrics: Metrics) -> Result<()>;

    /// The current metrics; waits for the device.
    fn read_metrics(&mut self) -> Result<Metrics>;

    /// Recent metrics, possibly a few steps old; `None` if they cannot be read without stalling the device.
    fn peek_metrics(&mut self) -> Option<Metrics>;

    /// Starts recording the loss of every training batch, for at most `capacity` batches between two calls of
    /// [`TrainingState::take_step_losses`].
    fn log_steps(&mut self, capacity: usize) -> Result<()>;

    /// The losses of the batches since the last call; waits for the device.
    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>>;

    /// Sets the learning rates of the following steps, one per step; the last one stays in effect after that.
    ///
    /// # Errors
    /// If `rates` is empty.
    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()>;

    /// Sets the seed of dropout and the number of the next training batch of the run, counted from 0.
    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()>;

    /// Swaps the parameters with their average, so that the average is evaluated; a second call restores them.
    fn swap_average(&mut self) -> Result<()>;

    /// The loss scale, if the precision uses one; waits for the device.
    fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        Ok(None)
    }

    /// Sets the loss scale; has no effect if the precision uses none.
    fn set_loss_scale(&mut self, _loss_scale: LossScale) -> Result<()> {
        Ok(())
    }

    /// Sets how the batches of the following steps are mixed, one by one; the last stays in effect after that.
    ///
    /// # Errors
    /// If `mixes` is empty.
    fn set_mixes(&mut self, mixes: &[Mix]) -> Result<()>;

    /// Sets the weight of each class in losses that are weighted.
    fn set_class_weights(&mut self, weights: &[f32]) -> Result<()>;

    /// The number of updates that the optimiser has made: all steps but those that an overflow skipped. Waits for the
    /// device.
    fn update_count(&mut self) -> Result<u64>;

    /// Sets the number of updates that were made before the next one.
    fn set_update_count(&mut self, count: u64) -> Result<()>;
}

/// A device with its memory, on which programs run. It is chosen once; the code that uses it is generic over it.
pub trait Backend: DataSets + TrainingState + Send {
    /// A compiled sequence of operators. It remains valid after later allocations and loads, as long as its spans lie
    /// within the allocated regions.
    type Program: Send;

    fn info(&self) -> DeviceInfo;

    /// Allocates every region and zeroes the regions that hold state. Previous contents are lost.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()>;

    /// Copies `values` to the beginning of `span`.
    fn write(&mut self, span: Span, values: &[f32]) -> Result<()>;

    /// A copy of `span`.
    fn read(&mut self, span: Span) -> Result<Vec<f32>>;

    /// Compiles a sequence into a program. A backend that selects algorithms by timing them does so here, and may
    /// overwrite arena, indices and gradients: compile before the first step.
    fn compile(&mut self, steps: Vec<Step>) -> Result<Self::Program>;

    /// Runs a program. On an asynchronous backend, work may continue after the call returns: see
    /// [`Backend::synchronize`].
    fn run(&mut self, program: &mut Self::Program) -> Result<()>;

    /// Times one step of a program.
    fn time_step(&mut self, program: &mut Self::Program, step: usize) -> Result<StepSeconds>;

    /// The names of the kernels and library calls of each step of a program; `None` for a backend without launches.
    fn launches(_program: &Self::Program) -> Option<Vec<Vec<String>>> {
        None
    }

    /// The [`Choice::site`] of each step of a program, if it has one; empty for a backend without choices.
    fn sites(_program: &Self::Program) -> Vec<Option<String>> {
        Vec::new()
    }

    /// Whether work may continue after the call that submitted it, so that a host clock can time only groups of steps.
    fn is_asynchronous(&self) -> bool {
        false
    }

    /// The candidates chosen for compiled operators that have several, sorted by operator name.
    fn choices(&self) -> Vec<Choice> {
        Vec::new()
    }

    /// Free and used bytes of dedicated device memory, counting all processes; `None` for the CPU.
    fn device_memory(&self) -> Option<[usize; 2]> {
        None
    }

    /// Problem sizes for measuring the device's limits.
    fn limit_sizes(&self) -> Result<LimitSizes> {
        Ok(LimitSizes { product_side: ProcessorLimits::PRODUCT_SIDE, vector_len: 32 << 20 })
    }

    /// Measures the processor that this backend runs on, in a few seconds; `None` for a device with its own processor.
    fn processor_limits(&self) -> Result<Option<ProcessorLimits>> {
        Ok(None)
    }

    /// The floating-point operations with which this backend computes an operator. Without an algorithm that needs
    /// fewer, these are the operations of [`Operands::flops`](crate::ops::Operands::flops).
    fn executed_flops(&self, op: &Op) -> usize {
        op.operands().flops(&|span| span.len)
    }

    /// Waits until all submitted work is done.
    fn synchronize(&mut self) -> Result<()>;
}

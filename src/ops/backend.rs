//! What every backend is: memory by name, programs of operators, the data set, and the state that outlives a step.

use std::sync::Arc;

use anyhow::Result;

use super::gather::{Normalise, Subset};
use super::loss::{Metrics, StepLoss};
use super::op::Step;
use super::optimizer::LossScale;
use super::precision::Precision;
use super::span::Span;
use crate::images::ImageSource;

/// Elements of every region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySizes {
    pub arena: usize,
    pub parameters: usize,
    pub gradients: usize,
    pub momentum: usize,
    pub average: usize,
    pub statistics: usize,
    pub indices: usize,
    /// Of arena and indices, what one sample takes at most.
    pub sample_arena: usize,
    pub sample_indices: usize,
    /// The im2col of the largest convolution: of a whole batch, and of one sample. A backend may work in pieces.
    pub columns: usize,
    pub sample_columns: usize,
    /// The most channels or features that a bias has.
    pub max_channels: usize,
    /// The largest batch that will be run.
    pub max_batch: usize,
}

/// What a backend runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// For people, such as `CPU (2 threads, AVX-512)`.
    pub name: String,
    pub precision: Precision,
}

/// Ways to compute a convolution or a linear layer, which differ in speed and in the order of their sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// cuBLAS; a convolution's windows are unfolded for it first (im2col).
    Gemm,
    /// One kernel that reads the windows where they lie.
    Implicit,
    /// A kernel for convolutions of one input channel.
    Direct,
    /// cuBLASLt, whose product ends in bias and activation, or in their gradients; of linear layers.
    CublasLt,
}

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::Gemm, Self::Implicit, Self::Direct, Self::CublasLt];

    /// As in `--conv-algo` and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gemm => "im2col",
            Self::Implicit => "implicit",
            Self::Direct => "direct",
            Self::CublasLt => "cublaslt",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Which algorithm an operator has been given.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The operator with its shape, batch and precision.
    pub site: String,
    pub algorithm: Algorithm,
    /// Of all candidates, where they were timed: now, or on this device before.
    pub microseconds: Vec<(Algorithm, f64)>,
}

/// How long a step of a program takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSeconds {
    pub seconds: f64,
    /// How often it was run to measure that, at most [`TIMED_RUNS`].
    pub runs: usize,
}

/// The most runs of a step that is timed.
pub const TIMED_RUNS: usize = 64;

/// Sizes of problems that show what a device can do at its best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSizes {
    /// Side of a square product that keeps all of it busy.
    pub product_side: usize,
    /// Numbers of a vector that is several times what its caches hold.
    pub vector_len: usize,
}

/// The data sets on the device.
pub trait DataSets {
    /// Makes a set resident: `images` is `[count][height][width][channels]`, `labels` `[count]`.
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()>;

    /// Uses a set that stays where it is: its images are read ahead of use, `max_batch` at a time, and every batch but an
    /// order's last has as many.
    fn stream_subset(
        &mut self,
        subset: Subset,
        op: &Normalise,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
    ) -> Result<()>;

    /// Sets the order in which the set is gone through, and the position in it at which the next batch begins. It may
    /// name an image more than once.
    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()>;

    /// Augmentations are drawn for this epoch from now on.
    fn set_augmentation_epoch(&mut self, seed: u64, epoch: u32) -> Result<()>;

    /// Sets the labels of the next loss, where no gather does.
    fn set_labels(&mut self, labels: &[u32]) -> Result<()>;
}

/// What outlives a step besides parameters and their gradients.
pub trait TrainingState {
    /// Starts the metrics from `metrics` (zero, or those of an interrupted epoch).
    fn set_metrics(&mut self, metrics: Metrics) -> Result<()>;

    /// The metrics up to here; waits for the device.
    fn read_metrics(&mut self) -> Result<Metrics>;

    /// The metrics, or those of a moment ago, where having them costs nothing: `None` where it would hold up the device.
    fn peek_metrics(&mut self) -> Option<Metrics>;

    /// Keeps the loss of every training step (with a gradient) from now on, for at most `capacity` steps between two calls
    /// of [`TrainingState::take_step_losses`].
    fn log_steps(&mut self, capacity: usize) -> Result<()>;

    /// The losses of the steps since the last call; waits for the device.
    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>>;

    /// The learning rates of the steps that follow, one each; the last holds on.
    ///
    /// # Errors
    /// Where there is none.
    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()>;

    /// The seed of dropout, and the optimiser step that comes next, from 0.
    fn set_dropout_step(&mut self, seed: u64, step: u64) -> Result<()>;

    /// Exchanges the parameters and their average, so that the average is evaluated; another call puts them back.
    fn swap_average(&mut self) -> Result<()>;

    /// The loss scale, where the precision needs one; waits for the device.
    fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        Ok(None)
    }

    /// Continues with a loss scale; without effect where the precision needs none.
    fn set_loss_scale(&mut self, _loss_scale: LossScale) -> Result<()> {
        Ok(())
    }
}

/// A device with its memory, on which programs run. Chosen once; everything below is generic over it.
pub trait Backend: DataSets + TrainingState + Send {
    /// What the backend made of a sequence of operators. It stays valid whatever is allocated or loaded after it, as long
    /// as its spans are within what is allocated.
    type Program: Send;

    fn info(&self) -> DeviceInfo;

    /// Allocates every region, zeroed where it is state; whatever was there before is gone.
    ///
    /// # Errors
    /// Where the device has not enough memory.
    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()>;

    /// Copies `values` to the beginning of `span`.
    fn write(&mut self, span: Span, values: &[f32]) -> Result<()>;

    /// A copy of `span`.
    fn read(&mut self, span: Span) -> Result<Vec<f32>>;

    /// Makes a program of a sequence. A backend that chooses among algorithms by timing them does so here, and may leave
    /// anything in arena, indices and gradients: compile before the first step.
    fn compile(&mut self, steps: Vec<Step>) -> Result<Self::Program>;

    /// Runs a program. Where work goes on after the call has returned, see [`Backend::synchronize`].
    fn run(&mut self, program: &mut Self::Program) -> Result<()>;

    /// Times one step of a program.
    fn time_step(&mut self, program: &mut Self::Program, step: usize) -> Result<StepSeconds>;

    /// Kernels and library calls of every step of a program, by name, where a backend launches such.
    fn launches(_program: &Self::Program) -> Option<Vec<Vec<String>>> {
        None
    }

    /// Whether work goes on after the call that asked for it has returned, so that only groups of steps can be timed.
    fn is_asynchronous(&self) -> bool {
        false
    }

    /// The algorithms of the operators that were compiled, where there is a choice, in the order of their names.
    fn choices(&self) -> Vec<Choice> {
        Vec::new()
    }

    /// Bytes of a device of its own: those that are free, and those in use, by whomever; none for the CPU.
    fn device_memory(&self) -> Option<[usize; 2]> {
        None
    }

    /// What to measure the device's limits with.
    fn limit_sizes(&self) -> Result<LimitSizes> {
        Ok(LimitSizes { product_side: 1024, vector_len: 32 << 20 })
    }

    /// Waits until all that was asked for is done.
    fn synchronize(&mut self) -> Result<()>;
}

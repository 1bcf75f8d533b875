//! What every backend is: memory by name, and all operators over it.

use anyhow::Result;

use super::{
    ActivationOps, BiasOps, ConvOps, DropoutOps, GatherOps, JoinOps, LinearOps, LossOps, LrnOps, NormOps, OptimizerOps,
    PoolOps,
};

/// The flat buffers of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// Activations and their gradients, laid out by the plan.
    Arena,
    /// All parameters, in the network's order.
    Parameters,
    /// The gradient of every parameter, in the same order.
    Gradients,
    /// SGD's momentum buffers, in the same order; empty without momentum.
    Momentum,
    /// The moving average of every parameter, in the same order; empty without one.
    Average,
    /// Of batch normalisations, fp32 in every precision: the running ones, in the network's order, and behind them what
    /// a training step keeps for its way back.
    Statistics,
    /// 32-bit words: the argmax of every max pooling, the signs of linear layers.
    Indices,
}

/// `len` elements of a region, from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub region: Region,
    pub offset: usize,
    pub len: usize,
}

impl Span {
    pub const fn new(region: Region, offset: usize, len: usize) -> Self {
        Self { region, offset, len }
    }

    /// The first `len` elements.
    ///
    /// # Panics
    /// If the span is shorter: the plan gave an operator too little.
    pub fn first(self, len: usize) -> Self {
        assert!(len <= self.len, "{len} elements wanted of {self:?}");
        Self { len, ..self }
    }
}

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

/// A sequence of operators that is run again and again, so that a backend can record it once and replay it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recording {
    /// So many training steps, one after the other.
    TrainSteps {
        batch: usize,
        steps: usize,
    },
    EvaluateStep {
        batch: usize,
    },
    /// From inputs that were written to logits that will be read.
    Forward {
        batch: usize,
    },
    /// Run as it comes: never recorded.
    Once,
}

impl Recording {
    pub const fn train_step(batch: usize) -> Self {
        Self::TrainSteps { batch, steps: 1 }
    }

    /// Of several steps, one; all else is itself.
    pub const fn single(self) -> Self {
        match self {
            Self::TrainSteps { batch, .. } => Self::train_step(batch),
            other => other,
        }
    }
}

/// What a backend runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// For people, such as `CPU (2 threads, AVX-512)`.
    pub name: String,
    /// `fp32`, `tf32` or `fp16`.
    pub precision: String,
}

/// Ways to compute a convolution or a linear layer, which differ in speed and in the order of their sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// A library's product; a convolution's windows are unfolded for it first.
    Im2col,
    /// One kernel that reads the windows where they lie.
    Implicit,
    /// A kernel for convolutions of very few channels.
    Direct,
    /// A library's product that ends in bias and activation, or in their gradients; of linear layers.
    CublasLt,
}

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::Im2col, Self::Implicit, Self::Direct, Self::CublasLt];

    /// As in `--conv-algo` and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Im2col => "im2col",
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

/// Whether weight gradients run beside what follows them; results are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branches {
    /// Where it is faster, by a short trial.
    Auto,
    On,
    Off,
}

/// How many training steps are recorded as one graph, where any are; results are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphSteps {
    /// Several where that is faster, as the run's own steps tell.
    Auto,
    Count(usize),
}

/// Which algorithm an operator has been given.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The operator with its shape, batch and precision.
    pub site: String,
    pub algorithm: Algorithm,
    /// Of all that were tried, where they were: now, or on this device before.
    pub microseconds: Vec<(Algorithm, f64)>,
}

/// The most runs of a body that is timed by [`Backend::device_seconds`].
pub const TIMED_RUNS: usize = 64;

/// Sizes of problems that show what a device can do at its best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSizes {
    /// Side of a square product that keeps all of it busy.
    pub product_side: usize,
    /// Numbers of a vector that is several times what its caches hold.
    pub vector_len: usize,
}

/// A device with its memory, on which a plan is run. Chosen once; everything below is generic over it.
pub trait Backend:
    ConvOps
    + LinearOps
    + NormOps
    + PoolOps
    + ActivationOps
    + BiasOps
    + LrnOps
    + DropoutOps
    + JoinOps
    + LossOps
    + GatherOps
    + OptimizerOps
    + Send
{
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

    /// Runs `body`, a sequence of operators that is the same whenever `recording` is the same.
    fn run<F>(&mut self, recording: Recording, body: F) -> Result<()>
    where
        F: FnMut(&mut Self) -> Result<()> + Send;

    /// Whether work goes on after the call that asked for it has returned, so that only groups of steps can be timed.
    fn is_asynchronous(&self) -> bool {
        false
    }

    /// Whether there are choices that are yet to be made by comparing, which is best done before the first step.
    fn compares_algorithms(&self) -> bool {
        false
    }

    /// Waits, on the device, for a weight gradient that may still run beside what came after it. Only then may what it
    /// reads be overwritten, and what it writes be read; the next weight gradient waits as well.
    fn join(&mut self) -> Result<()> {
        Ok(())
    }

    /// Chooses whether the recorded sequence runs weight gradients beside what follows them, where that is open. `body` is
    /// as much of it as may be run again and again.
    fn compare_branches<F>(&mut self, _recording: Recording, _body: F) -> Result<()>
    where
        F: FnMut(&mut Self) -> Result<()> + Send,
    {
        Ok(())
    }

    /// Whether a recorded sequence runs weight gradients beside what follows them; none where nothing is recorded.
    fn has_branches(&self, _recording: Recording) -> Option<bool> {
        None
    }

    /// How many of the `left` training steps on whole batches that come next are best run as one recording.
    fn steps_at_once(&mut self, _batch: usize, _left: u64) -> Result<usize> {
        Ok(1)
    }

    /// Whether that is still being found out, by these very steps.
    fn compares_steps(&self) -> bool {
        false
    }

    /// The algorithms of the operators that have run, where there is a choice, in the order of their names.
    fn choices(&self) -> Vec<Choice> {
        Vec::new()
    }

    /// Bytes that are free on a device of its own; none for the CPU.
    fn free_memory(&self) -> Option<usize> {
        None
    }

    /// Bytes in use on a device of its own, by whomever; none for the CPU.
    fn device_memory_in_use(&self) -> Option<usize> {
        None
    }

    /// Launches that a recorded sequence takes, where the backend records any and has recorded this one.
    fn recorded_launches(&self, _recording: Recording) -> Option<usize> {
        None
    }

    /// Seconds that `body` takes on a device that works on its own, without the host's share, by running it up to
    /// [`TIMED_RUNS`] times: what it adds to is then added to as often. None where the host's clock tells as much; the
    /// body is not run then.
    fn device_seconds<F>(&mut self, _body: F) -> Result<Option<f64>>
    where
        F: FnMut(&mut Self) -> Result<()> + Send,
    {
        Ok(None)
    }

    /// What to measure the device's limits with.
    fn limit_sizes(&self) -> Result<LimitSizes> {
        Ok(LimitSizes { product_side: 1024, vector_len: 32 << 20 })
    }

    /// Waits until all that was asked for is done.
    fn synchronize(&mut self) -> Result<()>;
}

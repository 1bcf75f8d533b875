//! The CUDA backend: the program's kernels and cuBLAS on a stream, all memory allocated before the first step.
//!
//! All `unsafe` that concerns a GPU is in this room. Whatever a step needs (position in the data, learning rate, loss
//! scale, metrics) is in device memory, so that one recorded graph serves every step.

mod activation;
mod algorithm;
mod bias;
mod branch;
mod compile;
mod conv;
mod cut;
mod direct;
mod dropout;
mod error;
mod feed;
mod gather;
mod gemm;
mod gemm_lt;
mod graphs;
mod grouped;
mod implicit;
mod join;
mod kernels;
mod known;
mod launches;
mod libraries;
mod linear;
mod loss;
mod lrn;
mod memory;
mod norm;
mod nvrtc;
mod optimizer;
mod options;
mod pinned;
mod pool;
mod probe;
mod sources;
mod steps;
mod together;
mod transfer;
mod trial;

pub use kernels::embedded as embedded_kernels;
pub use launches::Launches;
pub use options::Options;
pub use probe::devices;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::{CudaContext, CudaStream};

use crate::ops::{Backend, Branches, Choice, DeviceInfo, LimitSizes, MemorySizes, Recording, Span};
use algorithm::Choices;
use gemm::Blas;
use graphs::Graphs;
use kernels::{Arg, Kernels};
use known::Known;
use memory::Memory;

/// A CUDA device.
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Kernels,
    blas: Blas,
    options: Options,
    /// Whether implicit products are computed by `kernels/tensor.cu`, else by `kernels/implicit.cu`.
    tensor_cores: bool,
    choices: Choices,
    scratch: implicit::Scratch,
    memory: Option<Memory>,
    graphs: Graphs,
    /// How many training steps are one graph.
    grouping: steps::Grouping,
    side: Option<branch::Side>,
    /// Which recordings have branches, where that was tried.
    branches: HashMap<Recording, bool>,
    /// Whether what is recorded now has branches.
    branching: bool,
    gather: gather::State,
    loss: loss::State,
    dropout: dropout::State,
    optimizer: optimizer::State,
    /// Whether a graph is being recorded, when nothing may wait for the device.
    capturing: bool,
}

impl Cuda {
    /// Opens a device: context, stream, kernels.
    ///
    /// # Errors
    /// Where driver, device, kernels or cuBLAS are missing or too old; the message says which, and what to do.
    pub fn new(options: Options) -> Result<Self> {
        probe::check_driver()?;
        let ordinal = options.ordinal;
        let context =
            CudaContext::new(ordinal).map_err(error::driver).with_context(|| format!("CUDA device {ordinal}"))?;
        // SAFETY: one stream waits for the other by events of its own; before the first allocation, as it must be.
        unsafe { context.disable_event_tracking() };
        probe::check_device(&context)?;
        let stream = context.new_stream().map_err(error::driver).context("making a stream")?;
        let storage = if options.precision == "fp16" { "f16" } else { "f32" };
        let (major, minor) = context.compute_capability().map_err(error::driver)?;
        let target = u32::try_from(10 * major + minor)?;
        // The engine of implicit products: fp32 must not be rounded by tensor cores, and older devices have none for TF32.
        let tensor_cores = options.precision != "fp32" && target >= compile::target("tensor");
        let kernels = Kernels::load(&context, storage, &[if tensor_cores { "implicit" } else { "tensor" }])?;
        let blas = Blas::new(&stream, options.precision)?;
        let known = match options.algorithm {
            Some(_) => Known::default(),
            None => Known::load(probe::identity(&context)?),
        };
        let dropout = dropout::State::new(&stream)?;
        let choices = Choices::new(options.algorithm, options.recorded.clone(), known);
        let scratch = implicit::Scratch::new(&stream)?;
        let grouping = steps::Grouping::new(options.graph_steps);
        let (loss, optimizer) = (loss::State::new(&stream)?, optimizer::State::new(&stream, storage == "f16")?);
        Ok(Self {
            context,
            stream,
            kernels,
            blas,
            options,
            tensor_cores,
            choices,
            scratch,
            memory: None,
            graphs: Graphs::default(),
            grouping,
            side: None,
            branches: HashMap::new(),
            branching: false,
            gather: gather::State::default(),
            loss,
            dropout,
            optimizer,
            capturing: false,
        })
    }

    fn is_fp16(&self) -> bool {
        self.options.precision == "fp16"
    }

    /// Elements in 16 bytes of storage.
    fn vector(&self) -> usize {
        if self.is_fp16() { 8 } else { 4 }
    }

    fn memory(&self) -> Result<&Memory> {
        self.memory.as_ref().context("nothing was allocated")
    }

    fn memory_mut(&mut self) -> Result<&mut Memory> {
        self.memory.as_mut().context("nothing was allocated")
    }

    fn pointer(&self, span: Span) -> Result<Arg> {
        Ok(Arg::Pointer(self.memory()?.address(span)?))
    }

    /// Null where there is none.
    fn optional(&self, span: Option<Span>) -> Result<Arg> {
        span.map_or(Ok(Arg::Pointer(0)), |span| self.pointer(span))
    }

    fn launch(&self, kernel: &str, count: usize, args: &[Arg]) -> Result<()> {
        self.kernels.launch(&self.stream, kernel, count, args)
    }

    /// `kernel` where `ways` are all multiples of the vector length and `spans` begin on 16 bytes, as `<kernel>_vec`.
    fn vectorised(&self, ways: &[usize], spans: &[Span]) -> bool {
        let fits = |span: &Span| span.offset.is_multiple_of(self.vector());
        ways.iter().all(|way| way.is_multiple_of(self.vector())) && spans.iter().all(fits)
    }
}

impl Drop for Cuda {
    /// Kernels must not be unloaded while work that was asked for still runs them. Errors were or will be told by the
    /// call that they belong to.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

impl Backend for Cuda {
    fn info(&self) -> DeviceInfo {
        let name = self.context.name().unwrap_or_else(|_| "CUDA device".into());
        let precision = self.options.precision.to_string();
        DeviceInfo { name: format!("{name} (CUDA device {})", self.options.ordinal), precision }
    }

    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()> {
        self.graphs.clear();
        (self.memory, self.side) = (None, None);
        self.synchronize()?; // what was freed is free only then
        let real_size = if self.is_fp16() { 2 } else { 4 };
        self.blas.prepare_where_short(Memory::needed(sizes, real_size, self.options.workspace))?;
        self.memory = Some(Memory::new(&self.stream, sizes, real_size, self.options.workspace)?);
        self.loss.allocate_labels(&self.stream, sizes.max_batch)?;
        self.prepare_branches(sizes.gradients > 0)?;
        self.grouping = steps::Grouping::new(self.options.graph_steps);
        self.synchronize()
    }

    fn write(&mut self, span: Span, values: &[f32]) -> Result<()> {
        self.upload(span, values)
    }

    fn read(&mut self, span: Span) -> Result<Vec<f32>> {
        self.download(span)
    }

    fn run<F>(&mut self, recording: Recording, mut body: F) -> Result<()>
    where
        F: FnMut(&mut Self) -> Result<()> + Send,
    {
        self.context.bind_to_thread().map_err(error::driver)?;
        let result = self.run_next(recording, &mut body);
        self.choices.known.save();
        result
    }

    fn compares_algorithms(&self) -> bool {
        let branches = self.options.graphs && self.options.branches == Branches::Auto;
        self.options.algorithm.is_none() || branches
    }

    fn join(&mut self) -> Result<()> {
        self.join_branch()
    }

    fn compare_branches<F>(&mut self, recording: Recording, mut body: F) -> Result<()>
    where
        F: FnMut(&mut Self) -> Result<()> + Send,
    {
        self.context.bind_to_thread().map_err(error::driver)?;
        self.try_branches(recording, &mut body)
    }

    fn has_branches(&self, recording: Recording) -> Option<bool> {
        self.graphs.nodes(recording).map(|_| self.side.is_some() && self.wants_branches(recording))
    }

    fn steps_at_once(&mut self, batch: usize, left: u64) -> Result<usize> {
        self.context.bind_to_thread().map_err(error::driver)?;
        self.next_steps(batch, left)
    }

    fn compares_steps(&self) -> bool {
        self.may_group() && self.grouping.compares()
    }

    fn choices(&self) -> Vec<Choice> {
        self.all_choices()
    }

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn free_memory(&self) -> Option<usize> {
        self.context.mem_get_info().ok().map(|(free, _)| free)
    }

    fn device_memory_in_use(&self) -> Option<usize> {
        let (free, total) = self.context.mem_get_info().ok()?;
        Some(total - free)
    }

    fn recorded_launches(&self, recording: Recording) -> Option<usize> {
        self.graphs.nodes(recording)
    }

    fn device_seconds<F>(&mut self, mut body: F) -> Result<Option<f64>>
    where
        F: FnMut(&mut Self) -> Result<()> + Send,
    {
        self.context.bind_to_thread().map_err(error::driver)?;
        // What a body gathers is run more often than the host's books can know.
        Ok(Some(self.time(trial::OF_A_PART, &mut body)? * 1e-6))
    }

    fn limit_sizes(&self) -> Result<LimitSizes> {
        probe::limit_sizes(&self.context)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.stream.synchronize().map_err(error::driver)
    }
}

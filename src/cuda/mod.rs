//! The CUDA backend: the program's kernels and cuBLAS on one stream, all memory allocated before the first step.
//!
//! All `unsafe` that concerns a GPU is in this room. Whatever a step needs (position in the data, learning rate, loss
//! scale, metrics) is in device memory, so that one recorded graph serves every step.

mod activation;
mod algorithm;
mod bias;
mod compile;
mod conv;
mod direct;
mod error;
mod gather;
mod gemm;
mod graphs;
mod implicit;
mod join;
mod kernels;
mod known;
mod launches;
mod libraries;
mod linear;
mod loss;
mod memory;
mod norm;
mod nvrtc;
mod optimizer;
mod pool;
mod probe;
mod sources;
mod trial;

pub use kernels::embedded as embedded_kernels;
pub use launches::Launches;
pub use probe::devices;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaContext, CudaStream};

use crate::ops::{Algorithm, Backend, Choice, DeviceInfo, LimitSizes, MemorySizes, Recording, Region, Span};
use algorithm::Choices;
use gemm::Blas;
use graphs::{Graphs, Next};
use kernels::{Arg, Kernels};
use known::Known;
use memory::Memory;

/// How a CUDA device is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of the device, from 0.
    pub ordinal: usize,
    /// `fp32`, `tf32` or `fp16`.
    pub precision: &'static str,
    /// Bytes that the columns of a convolution may take.
    pub workspace: usize,
    /// Whether steps are recorded as graphs and replayed; results are the same.
    pub graphs: bool,
    /// How convolutions and linear layers are computed, where they can be; none is the fastest.
    pub algorithm: Option<Algorithm>,
    /// By the names of [`Choice`], what a run has chosen that goes on; it comes before what is fastest here.
    pub recorded: BTreeMap<String, Algorithm>,
}

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
    gather: gather::State,
    loss: loss::State,
    optimizer: optimizer::State,
    /// Whether a graph is being recorded, when nothing may wait for the device.
    capturing: bool,
}

impl Cuda {
    /// Opens a device: context, stream, kernels, cuBLAS.
    ///
    /// # Errors
    /// Where driver, device, kernels or cuBLAS are missing or too old; the message says which, and what to do.
    pub fn new(options: Options) -> Result<Self> {
        probe::check_driver()?;
        let ordinal = options.ordinal;
        let context =
            CudaContext::new(ordinal).map_err(error::driver).with_context(|| format!("CUDA device {ordinal}"))?;
        // SAFETY: there is one stream, so nothing has to wait for another; before the first allocation, as it must be.
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
            None => Known::load(probe::identity(&context, blas.version()?)?),
        };
        let choices = Choices::new(options.algorithm, options.recorded.clone(), known);
        let scratch = implicit::Scratch::new(&stream)?;
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
            gather: gather::State::default(),
            loss,
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

    /// Runs, records or replays a sequence.
    fn run_next(&mut self, recording: Recording, body: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let next = if self.options.graphs { self.graphs.next(recording) } else { Next::RunAsItComes };
        match next {
            Next::RunAsItComes => body(self),
            Next::Capture => {
                self.graphs.begin(&self.stream)?;
                self.capturing = true;
                let result = body(self);
                self.capturing = false;
                self.graphs.end(&self.stream, recording, result)
            }
            Next::Replay(gathers) => {
                // The books first: a graph would read past the end of the order without a word.
                gathers.into_iter().try_for_each(|(subset, batch)| self.gather.take(subset, batch))?;
                self.graphs.launch(recording)
            }
        }
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
        self.memory = None;
        self.synchronize()?; // what was freed is free only then
        let real_size = if self.is_fp16() { 2 } else { 4 };
        self.memory = Some(Memory::new(&self.stream, sizes, real_size, self.options.workspace)?);
        self.loss.allocate_labels(&self.stream, sizes.max_batch)?;
        self.synchronize()
    }

    fn write(&mut self, span: Span, values: &[f32]) -> Result<()> {
        ensure!(values.len() <= span.len, "{} values do not fit {span:?}", values.len());
        let (stream, fp16) = (Arc::clone(&self.stream), self.is_fp16());
        let floats = || values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let halves = || values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect::<Vec<u8>>();
        let memory = self.memory_mut()?;
        memory.address(span)?;
        match span.region {
            Region::Arena if fp16 => memory.region_mut(Region::Arena).upload(&stream, 2 * span.offset, &halves()),
            Region::Parameters if fp16 => {
                memory.region_mut(Region::Parameters).upload(&stream, 4 * span.offset, &floats())?;
                let copy = memory.half_parameters.as_mut().context("fp16 storage has a copy of the parameters")?;
                copy.upload(&stream, 2 * span.offset, &halves())
            }
            region => memory.region_mut(region).upload(&stream, 4 * span.offset, &floats()),
        }
    }

    fn read(&mut self, span: Span) -> Result<Vec<f32>> {
        let memory = self.memory()?;
        memory.address(span)?;
        let (buffer, size) = memory.region(span.region);
        let bytes = buffer.download(&self.stream, span.offset * size, span.len * size)?;
        if span.region == Region::Indices {
            return Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect());
        }
        match size {
            2 => Ok(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            _ => memory::f32_from_bytes(&bytes),
        }
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
        self.options.algorithm.is_none()
    }

    fn choices(&self) -> Vec<Choice> {
        self.all_choices()
    }

    fn is_asynchronous(&self) -> bool {
        true
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
        Ok(Some(self.time(&mut body)? * 1e-6))
    }

    fn limit_sizes(&self) -> Result<LimitSizes> {
        probe::limit_sizes(&self.context)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.stream.synchronize().map_err(error::driver)
    }
}

//! The CPU backend: vectorised loops (AVX-512, AVX2 or portable), packed GEMM and Winograd convolutions.
//!
//! Work is divided by the shape of the problem, never by the number of threads, and every sum has a fixed order.
//! Results are therefore bit-identical for any number of threads.

mod accumulate;
mod activation;
mod augment;
mod bias;
mod conv;
mod conv_products;
mod dropout;
mod gather;
mod gemm;
mod geometry;
mod grouped;
mod join;
mod limits;
mod linear;
mod loss;
mod lrn;
mod mix;
mod muon;
mod norm;
mod norm_loops;
mod optimizer;
mod pixels;
mod pointwise;
mod pool;
mod real;
mod runtime;
mod state;
mod views;
mod winograd;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use half::bf16;

use crate::ops::{
    Activation, Backend, DeviceInfo, MemorySizes, Op, Precision, ProcessorLimits, RunOn, Span, Step, StepSeconds,
};
use activation::with_constant;
pub use gemm::Instructions;
use gemm::Loop;
use real::Real;
use runtime::memory::Memory;
use runtime::scratch::{PackedWeightCache, Scratch};

/// Elements per task of element-wise work, large enough to hide the scheduling cost.
const ELEMENTWISE_CHUNK: usize = 32 * 1024;

/// The CPU as a device.
pub struct Cpu {
    precision: Precision,
    pool: Arc<rayon::ThreadPool>,
    memory: Memory,
    gather: gather::State,
    augment: augment::State,
    norm: norm::State,
    muon: muon::State,
    loss: loss::State,
    mix: mix::State,
    dropout: dropout::State,
    scratch: Scratch,
    weight_cache: PackedWeightCache,
    instructions: Instructions,
    /// Partial sums of bias gradients, kept between steps to avoid allocations.
    bias_partials: Vec<f32>,
    learning_rates: VecDeque<f32>,
    /// The updates that the optimiser has made.
    updates: u64,
    /// Partial sums of the squared gradients, kept between steps to avoid allocations.
    norm_partials: Vec<f64>,
}

impl Cpu {
    /// A backend in fp32 with `threads` threads; `None` uses all available processors.
    ///
    /// # Errors
    /// If `threads` is zero, or the threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::with_options(threads, Instructions::widest(), Precision::Fp32)
    }

    /// Like [`Cpu::new`], but with the given instruction set instead of the widest one, and the given precision.
    ///
    /// # Errors
    /// The same, and if this machine does not support the instruction set, or the CPU does not have the precision.
    pub fn with_options(threads: Option<usize>, instructions: Instructions, precision: Precision) -> Result<Self> {
        ensure!(precision.is_on_cpu(), "the CPU supports {} only, not {precision}", Precision::ON_CPU);
        ensure!(instructions.is_available(), "this machine does not support {}", instructions.name());
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or(available);
        ensure!(threads > 0, "at least one thread is needed");
        Ok(Self {
            precision,
            pool: runtime::threads::pool(threads)?,
            memory: Memory::default(),
            gather: gather::State::default(),
            augment: augment::State::default(),
            norm: norm::State::default(),
            muon: muon::State::default(),
            loss: loss::State::default(),
            mix: mix::State::default(),
            dropout: dropout::State::default(),
            scratch: Scratch::default(),
            weight_cache: PackedWeightCache::default(),
            instructions,
            bias_partials: Vec::new(),
            learning_rates: VecDeque::new(),
            updates: 0,
            norm_partials: Vec::new(),
        })
    }

    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn run_steps(&mut self, steps: &[Step]) -> Result<()> {
        // The whole sequence runs inside the pool, because entering the pool for every operator would be slow.
        let pool = Arc::clone(&self.pool);
        pool.install(|| steps.iter().try_for_each(|step| step.op.run_on(self).with_context(|| step.label.clone())))
    }
}

/// An operator with activations of any number format.
trait RunAs {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()>;
}

impl<T: RunAs> RunOn<Cpu> for T {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        match cpu.precision {
            Precision::Bf16 => self.run_as::<bf16>(cpu),
            _ => self.run_as::<f32>(cpu),
        }
    }
}

/// A sequence of operators, which the CPU runs without compiling it.
pub struct Program {
    steps: Vec<Step>,
}

impl Backend for Cpu {
    type Program = Program;

    fn info(&self) -> DeviceInfo {
        let threads = self.threads();
        let plural = if threads == 1 { "" } else { "s" };
        DeviceInfo {
            name: format!("CPU ({threads} thread{plural}, {})", self.instructions.name()),
            precision: self.precision,
        }
    }

    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()> {
        self.memory = Memory::new(sizes, self.precision)?;
        self.weight_cache = PackedWeightCache::default();
        Ok(())
    }

    fn write(&mut self, span: Span, values: &[f32]) -> Result<()> {
        self.memory.write(span, values)
    }

    fn read(&mut self, span: Span) -> Result<Vec<f32>> {
        self.memory.read(span)
    }

    fn compile(&mut self, steps: Vec<Step>) -> Result<Program> {
        Ok(Program { steps })
    }

    fn run(&mut self, program: &mut Program) -> Result<()> {
        self.run_steps(&program.steps)
    }

    fn time_step(&mut self, program: &mut Program, step: usize) -> Result<StepSeconds> {
        let step = program.steps.get(step).with_context(|| format!("the program has no step {step}"))?;
        let pool = Arc::clone(&self.pool);
        // Within a program, a step begins inside the pool, whose threads are awake.
        pool.install(|| {
            pool.broadcast(|_| ());
            let begin = Instant::now();
            step.op.run_on(self).with_context(|| step.label.clone())?;
            Ok(StepSeconds { seconds: begin.elapsed().as_secs_f64(), runs: 1 })
        })
    }

    fn processor_limits(&self) -> Result<Option<ProcessorLimits>> {
        self.measure_limits().map(Some)
    }

    fn executed_flops(&self, op: &Op) -> usize {
        conv::executed_flops(op).unwrap_or_else(|| op.operands().flops(&|span| span.len))
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What is left to do on sums `y` that a micro-kernel has written: to add the residual, which may be longer, and the
/// activation. Without a residual, the micro-kernel has applied ReLU.
fn finish<R: Real, Y: Real>(set: Instructions, activation: Activation, residual: Option<&[R]>, y: &mut [Y]) {
    match (residual, activation) {
        (Some(residual), _) => set.run(AddAndActivate { activation, residual, y }),
        (None, Activation::Identity | Activation::Relu) => {}
        (None, _) => set.run(Activate { activation, y }),
    }
}

/// `y = activation(y + residual)`; the residual may be longer.
struct AddAndActivate<'a, R, Y> {
    activation: Activation,
    residual: &'a [R],
    y: &'a mut [Y],
}

impl<R: Real, Y: Real> Loop for AddAndActivate<'_, R, Y> {
    #[inline(always)]
    fn run(self) {
        let Self { residual, y, .. } = self;
        with_constant!(self.activation, activation => {
            for (y, residual) in y.iter_mut().zip(residual) {
                *y = Y::new(activation.apply(y.get() + residual.get()));
            }
        });
    }
}

/// `y = activation(y)`
struct Activate<'a, Y> {
    activation: Activation,
    y: &'a mut [Y],
}

impl<Y: Real> Loop for Activate<'_, Y> {
    #[inline(always)]
    fn run(self) {
        with_constant!(self.activation, activation => {
            for y in self.y {
                *y = Y::new(activation.apply(y.get()));
            }
        });
    }
}

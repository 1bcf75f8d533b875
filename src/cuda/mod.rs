//! The CUDA backend: it lowers operators to launches and runs the launches on one stream. All memory is allocated
//! before the first step.
//!
//! `lower` turns operators into launches without needing a device; `tune` times equivalent launches and chooses the
//! fastest; `run` launches, captures and replays; `memory` owns the buffers that launches refer to; `driver` finds and
//! calls the libraries. Everything that changes from step to step (position in the data, learning rate, loss scale,
//! metrics) is in device memory, so one captured graph serves every step.

mod convolution;
mod driver;
mod gemm;
mod lower;
mod memory;
mod options;
mod program;
mod run;
mod scratch;
mod sets;
mod state;
mod tune;

pub use driver::{Embedded, devices, embedded as embedded_kernels};
pub use options::{DEFAULT_WORKSPACE, Options};
pub use run::Program;

use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::CudaContext;

use crate::ops::{
    Algorithm, Backend, Choice, DeviceInfo, LimitSizes, LossScale, MemorySizes, Metrics, Precision, Span, Step,
    StepSeconds, TrainingState,
};
use driver::{Blas, Cudnn, Modules, Turn, error};
use lower::{Device, Target};
use memory::{Memory, Requirements, columns_bytes};
use program::{Buffer, LoweredStep};
use run::Runner;
use sets::Set;
use state::State;
use tune::{DevicelessChoice, Tuner, TunerChoice};

/// A CUDA device.
///
/// ```no_run
/// use cnn_cuda::cuda::{Cuda, Options};
/// use cnn_cuda::ops::Precision;
///
/// # fn main() -> anyhow::Result<()> {
/// let backend = Cuda::new(Options { ordinal: 0, precision: Precision::Fp16, ..Options::default() })?;
/// # Ok(())
/// # }
/// ```
pub struct Cuda {
    options: Options,
    device: Device,
    tuner: Tuner,
    runner: Runner,
    /// Indexed by [`Subset`](crate::ops::Subset).
    sets: [Option<Set>; 2],
    state: State,
    memory: Memory,
    context: Arc<CudaContext>,
    /// Taken by `drop` and held until all fields above are dropped, so it must be the last field.
    _turn: Option<Turn>,
}

impl Cuda {
    /// Opens a device: creates its context and stream, and loads the kernels.
    ///
    /// # Errors
    /// If the driver, device, kernels, cuBLAS, or a cuDNN that was asked for are missing or too old; the message names
    /// which, with a remedy.
    pub fn new(options: Options) -> Result<Self> {
        driver::check_driver()?;
        let (ordinal, precision) = (options.ordinal, options.precision);
        let context =
            CudaContext::new(ordinal).map_err(error::driver).with_context(|| format!("CUDA device {ordinal}"))?;
        // SAFETY: the streams synchronise through explicit events, and nothing has been allocated yet.
        unsafe { context.disable_event_tracking() };
        driver::check_device(&context, precision)?;
        let stream = context.new_stream().map_err(error::driver).context("creating a CUDA stream")?;
        let (capability, shared) = (driver::capability(&context)?, driver::shared_limit(&context));
        let modules = Modules::load(&context, capability, precision, options.dependent_launches)?;
        let (blas, cudnn) = (Blas::new(&stream, precision)?, Cudnn::new(&stream, precision));
        if options.algorithm == Some(Algorithm::Cudnn) {
            cudnn.require()?;
        }
        let identity = || driver::identity(&context, cudnn.version(), modules.dependent_launches);
        let tuner = Tuner::new(options.requested(), options.recorded.clone(), identity)?;
        let mut memory = Memory::new(&stream, precision)?;
        state::allocate(&mut memory, precision)?;
        let (runner, sets, state) = (Runner { stream, modules, blas, cudnn }, [None, None], State::default());
        let device = Device { capability, shared };
        let mut cuda = Self { options, device, tuner, runner, sets, state, memory, context, _turn: None };
        cuda.set_metrics(Metrics::default())?;
        cuda.set_loss_scale(LossScale::default())?;
        Ok(cuda)
    }

    fn target(&self) -> Result<Target> {
        let columns = self.memory.get(Buffer::Columns)?.len();
        Ok(Target { precision: self.options.precision, columns, device: self.device })
    }
}

/// Makes `context` current in this thread, which may last have used another backend.
fn bind(context: &CudaContext) -> Result<()> {
    context.bind_to_thread().map_err(error::driver)
}

impl Drop for Cuda {
    /// Kernels must not be unloaded while queued work still runs them. Errors are ignored here because the call that
    /// caused them reports them.
    fn drop(&mut self) {
        let _ = self.runner.stream.synchronize();
        self._turn = Some(Turn::take());
    }
}

impl Backend for Cuda {
    type Program = Program;

    fn info(&self) -> DeviceInfo {
        let name = self.context.name().unwrap_or_else(|_| "CUDA device".into());
        let Options { ordinal, precision, .. } = self.options;
        DeviceInfo { name: format!("{name} (CUDA device {ordinal})"), precision }
    }

    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()> {
        self.memory.clear();
        self.tuner.forget();
        self.synchronize()?; // frees are asynchronous
        let Options { precision, workspace, .. } = self.options;
        let requirements = Requirements::new(sizes, precision, workspace);
        self.runner.blas.start_early_if_memory_is_low(requirements.total())?;
        self.memory.allocate_plan(&requirements)?;
        self.memory.allocate_zeroed(Buffer::Labels, 4 * sizes.max_batch)?;
        self.synchronize()
    }

    fn write(&mut self, span: Span, values: &[f32]) -> Result<()> {
        self.memory.write(span, values)
    }

    fn read(&mut self, span: Span) -> Result<Vec<f32>> {
        self.memory.read(span)
    }

    fn compile(&mut self, steps: Vec<Step>) -> Result<Program> {
        bind(&self.context)?;
        let (target, runner) = (self.target()?, &self.runner);
        self.tuner.tune(runner, &self.memory, target, &steps)?;
        let mut choose = TunerChoice { tuner: &mut self.tuner, runner };
        Ok(Program::new(lower::lower(steps, target, &mut choose)?))
    }

    fn run(&mut self, program: &mut Program) -> Result<()> {
        bind(&self.context)?;
        for taken in &program.taken {
            self.take_batch(taken)?;
        }
        program.run(&self.runner, &self.memory, self.options.graphs)
    }

    fn time_step(&mut self, program: &mut Program, step: usize) -> Result<StepSeconds> {
        bind(&self.context)?;
        let LoweredStep { step, launches, .. } = program.steps.get(step).context("the program has no such step")?;
        run::check_operands(&self.memory, step)?;
        run::time(&self.runner, &self.memory, launches)
    }

    fn launches(program: &Program) -> Option<Vec<Vec<String>>> {
        Some(names(&program.steps))
    }

    fn sites(program: &Program) -> Vec<Option<String>> {
        program.steps.iter().map(|step| step.site.clone()).collect()
    }

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn choices(&self) -> Vec<Choice> {
        self.tuner.choices()
    }

    fn device_memory(&self) -> Option<[usize; 2]> {
        self.context.mem_get_info().ok().map(|(free, total)| [free, total - free])
    }

    fn limit_sizes(&self) -> Result<LimitSizes> {
        driver::limit_sizes(&self.context)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.runner.stream.synchronize().map_err(error::driver)
    }
}

/// The names of the launches of every step of a sequence on an H100, computed without a device: with the requested
/// algorithm, or else one that takes a single launch.
///
/// # Errors
/// If an operator is too large for the kernels.
pub fn launches(steps: &[Step], sizes: &MemorySizes, options: &Options) -> Result<Vec<Vec<String>>> {
    let Options { precision, workspace, .. } = *options;
    let columns = columns_bytes(sizes, precision.real_size(), workspace);
    let target = Target { precision, columns, device: Device::H100 };
    let mut choose = DevicelessChoice { requested: options.requested() };
    Ok(names(&lower::lower(steps.to_vec(), target, &mut choose)?))
}

/// The names of the tiles of implicit GEMM in a precision, for [`Options::tile`], on a device of a compute capability, as
/// 10·major + minor.
pub fn tiles(precision: Precision, capability: u32) -> impl Iterator<Item = &'static str> {
    let target = Target { precision, columns: 0, device: Device { capability, ..Device::H100 } };
    lower::tile::TILES.iter().filter(move |tile| tile.runs_on(target)).map(|tile| tile.name)
}

fn names(steps: &[LoweredStep]) -> Vec<Vec<String>> {
    let names = |step: &LoweredStep| step.launches.iter().map(|launch| launch.name().to_string()).collect();
    steps.iter().map(names).collect()
}

#[cfg(test)]
mod tests {
    use super::driver::kernels_for;
    use super::lower::tile::TILES;
    use super::{Device, Target};

    /// Every device that may choose a tile loads its kernels.
    #[test]
    fn every_tile_has_its_kernels() {
        for tile in TILES {
            for &precision in tile.precisions {
                for capability in [75, 80, 86, 89, 90, 100, 103, 120] {
                    let target = Target { precision, columns: 0, device: Device { capability, ..Device::H100 } };
                    let loaded = kernels_for(capability, precision);
                    for &product in tile.products.iter().filter(|_| tile.runs_on(target)) {
                        let kernel = tile.kernel(product);
                        let found = loaded.contains(&kernel.as_str());
                        assert!(found, "a device of compute capability {capability} has no {kernel} in {precision}");
                    }
                }
            }
        }
    }
}

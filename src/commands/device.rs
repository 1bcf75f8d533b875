//! Chooses the backend. The code below is generic over it.

use anyhow::{Context, Result, bail};
use tracing::info;

use super::limits::{bounded_threads, start_pool};
use crate::cpu::Cpu;
pub use crate::cpu::Instructions;
use crate::cuda::{self, Cuda, Options};
use crate::ops::{Backend, MemorySizes, Precision, Step};
use crate::settings::{DeviceChoice, DeviceSettings, usage};

/// Work to run on the chosen backend.
pub trait Task {
    type Output;

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output>;
}

/// Runs `task` on the device that the settings select, and logs which one that is and why.
///
/// # Errors
/// A CUDA device given by number cannot be used, or a precision that the CPU does not support is requested there.
pub fn with_backend<T: Task>(args: &DeviceSettings, task: T) -> Result<T::Output> {
    with_instructions(args, None, task)
}

/// Like [`with_backend`]. On the CPU, the given instruction set is used instead of the widest.
///
/// # Errors
/// Also if an instruction set is given that this machine does not have, or one for a CUDA device.
pub fn with_instructions<T: Task>(
    args: &DeviceSettings,
    instructions: Option<Instructions>,
    task: T,
) -> Result<T::Output> {
    check_instructions(args, instructions)?;
    let threads = bounded_threads(args.threads);
    start_pool(threads)?;
    let why = match args.device.unwrap_or_default() {
        DeviceChoice::Cpu => "--device cpu".to_string(),
        DeviceChoice::Auto if instructions.is_some() => "--instructions is for the CPU".to_string(),
        DeviceChoice::Cuda(ordinal) => {
            let backend = open_cuda(args, ordinal).with_context(|| unusable(ordinal))?;
            info!("device: {} (--device {ordinal})", backend.info().name);
            return task.run(backend);
        }
        DeviceChoice::Auto => match open_cuda(args, 0) {
            Ok(backend) => {
                info!("device: {} (the first CUDA device)", backend.info().name);
                return task.run(backend);
            }
            Err(error) => format!("{error:#}"),
        },
    };
    let precision = args.precision.unwrap_or_default();
    if !precision.is_on_cpu() {
        bail!("the CPU supports {} only ({why}); --precision {precision} is for CUDA devices", Precision::ON_CPU);
    }
    let backend = Cpu::with_options(threads, instructions.unwrap_or_else(Instructions::widest), precision)?;
    info!("device: {}: {why}", backend.info().name);
    task.run(backend)
}

fn check_instructions(args: &DeviceSettings, instructions: Option<Instructions>) -> Result<()> {
    let Some(instructions) = instructions else { return Ok(()) };
    let on_cuda = matches!(args.device, Some(DeviceChoice::Cuda(_)));
    usage(!on_cuda, || "--instructions is for the CPU; use it with --device cpu".into())?;
    usage(instructions.is_available(), || {
        let available: Vec<String> = Instructions::available().map(Instructions::flag).collect();
        format!("this machine does not support {}; --instructions can be {}", instructions.name(), available.join(", "))
    })
}

/// Checks the device flags before anything is loaded, and starts the threads that load: a CUDA device given by number must
/// exist.
pub fn check_device(args: &DeviceSettings) -> Result<()> {
    args.check()?;
    start_pool(bounded_threads(args.threads))?;
    match args.device {
        Some(DeviceChoice::Cuda(ordinal)) => check_ordinal(ordinal).with_context(|| unusable(ordinal)),
        _ => Ok(()),
    }
}

/// The CUDA launches of every step of a sequence on an H100, found without a device. `auto` takes the algorithms with
/// the fewest launches.
pub fn cuda_launches(steps: &[Step], sizes: &MemorySizes, settings: &DeviceSettings) -> Result<Vec<Vec<String>>> {
    cuda::launches(steps, sizes, &cuda_options(settings, 0))
}

fn unusable(ordinal: usize) -> String {
    format!("--device {ordinal} cannot be used (--device cpu works without a GPU)")
}

fn check_ordinal(ordinal: usize) -> Result<()> {
    let devices = cuda::devices()?;
    if ordinal >= devices.len() {
        let names = devices.iter().enumerate().map(|(ordinal, name)| format!("{ordinal}: {name}"));
        bail!("there is no CUDA device {ordinal}; this machine has {}", names.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

fn open_cuda(settings: &DeviceSettings, ordinal: usize) -> Result<Cuda> {
    check_ordinal(ordinal)?;
    Cuda::new(cuda_options(settings, ordinal))
}

fn cuda_options(settings: &DeviceSettings, ordinal: usize) -> Options {
    Options {
        ordinal,
        precision: settings.precision.unwrap_or_default(),
        workspace: settings.workspace_mb.map_or(cuda::DEFAULT_WORKSPACE, |mb| mb.saturating_mul(1_000_000)),
        graphs: true,
        dependent_launches: settings.dependent_launch.unwrap_or(true),
        algorithm: settings.conv_algo.unwrap_or_default().algorithm(),
        tile: None,
        recorded: settings.algorithms.clone(),
    }
}

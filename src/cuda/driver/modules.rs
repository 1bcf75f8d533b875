//! Loads the kernels, embedded as PTX or compiled at run time, and launches them; each kernel takes one parameter
//! struct.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use tracing::debug;

use super::probe::USUAL_SHARED_LIMIT;
use super::sources::{Module, modules_for};
use super::{Turn, blas, blas_lt, compile, error, probe};
use crate::cuda::program::KernelLaunch;
use crate::ops::Precision;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels that were compiled at build time: module, storage type, architecture such as `75` or `90a`, and PTX.
/// Empty if the program was built without NVRTC.
pub fn embedded() -> &'static [(&'static str, &'static str, &'static str, &'static str)] {
    PTX
}

/// Identifies everything besides the operator that measured times depend on: the device, the driver, cuBLAS, cuBLASLt,
/// and a fingerprint of the kernels' sources and of the code that decides how they are launched.
pub(in crate::cuda) fn identity(context: &CudaContext) -> Result<String> {
    let name = context.name().map_err(error::driver)?;
    let (major, minor) = context.compute_capability().map_err(error::driver)?;
    let (driver, cublas, lt) = (probe::driver_version()?, blas::version()?, blas_lt::version().unwrap_or(0));
    let launchers = [
        include_str!("../lower/tile.rs"),
        include_str!("../lower/grid.rs"),
        include_str!("../lower/split_k.rs"),
        include_str!("../lower/implicit.rs"),
        include_str!("../lower/direct.rs"),
    ];
    let texts = SOURCES.iter().chain(HEADERS).map(|(_, text)| *text).chain(launchers);
    let kernels = crate::rng::fingerprint(texts.map(str::as_bytes));
    Ok(format!(
        "{name}, {major}.{minor}, driver {}.{}, cuBLAS {cublas}, {lt}, kernels {kernels:016x}",
        driver.0, driver.1
    ))
}

struct Kernel {
    function: sys::CUfunction,
    /// Size of its parameter according to the PTX; `None` if the PTX does not state it, such as the emulator's.
    parameter_bytes: Option<usize>,
    /// Most bytes of dynamic shared memory that it may be launched with.
    shared_limit: Cell<u32>,
}

impl Kernel {
    /// Raises the limit of dynamic shared memory to `bytes`, if it is lower.
    fn allow_shared(&self, bytes: u32) -> Result<()> {
        if bytes > self.shared_limit.get() {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is valid as long as its module, which `Modules` owns.
            let set =
                unsafe { result::function::set_function_attribute(self.function, attribute, bytes.cast_signed()) };
            set.map_err(error::driver).with_context(|| format!("requesting {bytes} bytes of shared memory"))?;
            self.shared_limit.set(bytes);
        }
        Ok(())
    }
}

/// The storage type of a precision, as the suffix of kernel names.
fn storage_of(precision: Precision) -> &'static str {
    if precision == Precision::Fp16 { "f16" } else { "f32" }
}

/// All kernels of one storage type on one device.
pub(in crate::cuda) struct Modules {
    kernels: HashMap<String, Kernel>,
    /// The modules own the functions.
    _modules: Vec<Arc<CudaModule>>,
}

// SAFETY: function handles may be used from any thread that has the context current.
unsafe impl Send for Modules {}

impl Modules {
    /// Loads the modules for a device and a precision. Kernels are named as in the `KERNEL` macro of the sources.
    ///
    /// # Errors
    /// If the driver rejects the code, or it must be compiled at run time and that fails.
    pub fn load(context: &Arc<CudaContext>, capability: u32, precision: Precision) -> Result<Self> {
        let storage = storage_of(precision);
        let (mut kernels, mut modules) = (HashMap::new(), Vec::new());
        for module in modules_for(capability, storage, precision != Precision::Fp32) {
            let file = module.name;
            let (ptx, loaded) =
                load_module(context, module, storage).with_context(|| format!("loading kernels/{file}.cu"))?;
            for (entry, parameter_bytes) in entries(&ptx) {
                let function = loaded.load_function(entry).map_err(error::driver);
                let function = function.with_context(|| format!("kernel {entry} of kernels/{file}.cu"))?.cu_function();
                let name = entry.trim_end_matches(&format!("_{storage}"));
                let shared_limit = Cell::new(USUAL_SHARED_LIMIT);
                kernels.insert(name.to_string(), Kernel { function, parameter_bytes, shared_limit });
            }
            modules.push(loaded);
        }
        Ok(Self { kernels, _modules: modules })
    }

    /// Launches a kernel with the given parameters, whose addresses are the device's.
    ///
    /// # Errors
    /// If the kernel does not exist, its parameters have another size, or the driver rejects the launch.
    pub fn launch(&self, stream: &CudaStream, launch: &KernelLaunch, params: &mut [u64]) -> Result<()> {
        let KernelLaunch { ref name, grid, block, shared, .. } = *launch;
        let kernel = self.kernels.get(name).with_context(|| format!("there is no kernel {name}"))?;
        let (given, taken) = (size_of_val(params), kernel.parameter_bytes);
        if let Some(taken) = taken {
            ensure!(taken == given, "{name} takes {taken} bytes of parameters, not {given}");
        }
        kernel.allow_shared(shared).with_context(|| format!("kernel {name}"))?;
        let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
        // SAFETY: the kernel takes one struct, and `params` has its size and layout; its addresses point into spans
        // whose bounds were checked.
        unsafe {
            let (grid, block) = ((grid[0], grid[1], 1), (block, 1, 1));
            result::launch_kernel(kernel.function, grid, block, shared, stream.cu_stream(), &mut pointers)
        }
        .map_err(error::driver)
        .with_context(|| format!("kernel {name}"))
    }
}

/// The kernels in PTX: name, and size of the parameter in bytes if the PTX states it.
fn entries(ptx: &str) -> impl Iterator<Item = (&str, Option<usize>)> {
    ptx.split(".visible .entry ").skip(1).filter_map(|text| {
        let (name, rest) = text.split_once('(')?;
        let (parameters, _) = rest.split_once(')')?;
        let bytes = parameters.split_once("_param_0[").and_then(|(_, bytes)| bytes.split_once(']')?.0.parse().ok());
        Some((name, bytes))
    })
}

/// Loads a module and returns its PTX. The PTX is compiled at run time if none is embedded, or if the driver is older
/// than the NVRTC that compiled the embedded PTX.
fn load_module(
    context: &Arc<CudaContext>,
    module: &Module,
    storage: &str,
) -> Result<(Cow<'static, str>, Arc<CudaModule>)> {
    let load = |ptx: &str| {
        let _turn = Turn::take();
        context.load_module(Ptx::from_src(ptx))
    };
    let embedded = PTX.iter().find(|(name, of, ..)| *name == module.name && *of == storage);
    if let Some((.., ptx)) = embedded {
        match load(ptx) {
            Err(DriverError(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)) => {
                debug!("the driver is too old for the embedded kernels/{}.cu, so it is compiled now", module.name);
            }
            loaded => return Ok((Cow::Borrowed(ptx), loaded.map_err(error::driver)?)),
        }
    }
    let source = SOURCES.iter().find(|(file, _)| *file == module.name).context("the source is not embedded")?.1;
    let compiled = compile::at_run_time(module, source, HEADERS, storage);
    let compiled = match embedded {
        Some(_) => compiled.context("the NVIDIA driver is too old for the kernels of this program; update it"),
        None => compiled,
    }?;
    let loaded = load(&compiled).map_err(error::driver)?;
    Ok((Cow::Owned(compiled), loaded))
}

/// The names of the kernels in a source file.
#[cfg(test)]
fn kernels_in(source: &str) -> impl Iterator<Item = &str> {
    source.split("\nKERNEL(").skip(1).filter_map(|kernel| Some(kernel.split_once(',')?.0))
}

/// The names of the kernels that a device loads, by its compute capability.
#[cfg(test)]
pub(in crate::cuda) fn kernels_for(capability: u32, precision: Precision) -> Vec<&'static str> {
    let source = |module: &&Module| SOURCES.iter().find(|(file, _)| *file == module.name).map(|(_, source)| source);
    let modules = modules_for(capability, storage_of(precision), precision != Precision::Fp32);
    modules.iter().filter_map(source).flat_map(|source| kernels_in(source)).collect()
}

#[cfg(test)]
mod tests {
    use super::{PTX, SOURCES, entries, kernels_in, modules_for};
    use crate::cuda::driver::sources::MODULES;

    #[test]
    fn a_device_loads_the_modules_that_it_can_use() {
        let names = |capability, storage, tensor_cores| {
            let modules = modules_for(capability, storage, tensor_cores);
            let products = ["implicit", "multistage", "patch", "thin", "warpgroup"];
            modules.iter().map(|module| module.name).filter(|it| products.contains(it)).collect::<Vec<_>>()
        };
        assert_eq!([names(75, "f16", true), names(90, "f32", false)], [["implicit"], ["implicit"]]);
        assert_eq!([names(80, "f32", true), names(120, "f16", true)], [["multistage", "thin"], ["multistage", "thin"]]);
        assert_eq!(names(90, "f32", true), ["multistage", "thin", "warpgroup"]);
        assert_eq!(names(90, "f16", true), ["multistage", "patch", "thin", "warpgroup"]);
    }

    #[test]
    fn kernel_names_are_unique() {
        let mut names: Vec<&str> = SOURCES.iter().flat_map(|(_, source)| kernels_in(source)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two kernels have the same name");
        // Either all modules are embedded or none.
        assert!(PTX.is_empty() || PTX.len() == MODULES.iter().map(|module| module.storages.len()).sum::<usize>());
    }

    #[test]
    fn entries_lists_the_kernels_in_ptx() {
        let ptx = ".visible .entry copy_f32(\n\t.param .align 8 .b8 copy_f32_param_0[24]\n)\n{}\n\
                   .visible .entry add_f32()\n{}\n";
        assert_eq!(entries(ptx).collect::<Vec<_>>(), [("copy_f32", Some(24)), ("add_f32", None)]);
    }
}

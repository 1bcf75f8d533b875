//! The kernels as embedded or compiled here, loaded once, and launched with the one struct that each takes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use tracing::debug;

use super::sources::{MODULES, Module};
use super::{Turn, blas, blas_lt, compile, error, probe};
use crate::cuda::program::BLOCK;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels that were compiled with the program: module, storage type, target and PTX. Empty where it was built excluded
/// NVRTC.
pub fn embedded() -> &'static [(&'static str, &'static str, u32, &'static str)] {
    PTX
}

/// What times measured on a device depend on besides the operator: device, driver, cuBLAS with cuBLASLt, and kernels, by their
/// sources and by what decides how they are launched.
pub(in crate::cuda) fn identity(context: &CudaContext) -> Result<String> {
    let name = context.name().map_err(error::driver)?;
    let (major, minor) = context.compute_capability().map_err(error::driver)?;
    let (driver, cublas, lt) = (probe::driver_version()?, blas::version()?, blas_lt::version().unwrap_or(0));
    let launchers =
        [include_str!("../lower/split_k.rs"), include_str!("../lower/implicit.rs"), include_str!("../lower/direct.rs")];
    let texts = SOURCES.iter().chain(HEADERS).map(|(_, text)| *text).chain(launchers);
    let kernels = crate::rng::fingerprint(texts.map(str::as_bytes));
    Ok(format!(
        "{name}, {major}.{minor}, driver {}.{}, cuBLAS {cublas}, {lt}, kernels {kernels:016x}",
        driver.0, driver.1
    ))
}

struct Kernel {
    function: sys::CUfunction,
    /// What PTX says its parameter takes; the emulator's says nothing.
    parameter_bytes: Option<usize>,
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
    /// Loads the modules for `storage` (`f32` or `f16`) but the one called `excluded`. Kernels go by the names that `KERNEL` has
    /// in the sources.
    ///
    /// # Errors
    /// Where the driver refuses the code, or it has to be compiled here and cannot be.
    pub fn load(context: &Arc<CudaContext>, storage: &str, excluded: &str) -> Result<Self> {
        let (mut kernels, mut modules) = (HashMap::new(), Vec::new());
        for module in MODULES.iter().filter(|module| module.name != excluded) {
            let file = module.file;
            let (ptx, loaded) =
                load_module(context, module, storage).with_context(|| format!("loading kernels/{file}.cu"))?;
            for (entry, parameter_bytes) in entries(&ptx) {
                let function = loaded.load_function(entry).map_err(error::driver);
                let function = function.with_context(|| format!("kernel {entry} of kernels/{file}.cu"))?.cu_function();
                let name = entry.trim_end_matches(&format!("_{storage}")).trim_end_matches("_tensor");
                kernels.insert(name.to_string(), Kernel { function, parameter_bytes });
            }
            modules.push(loaded);
        }
        Ok(Self { kernels, _modules: modules })
    }

    /// Launches a kernel, with `shared` bytes of dynamic shared memory.
    ///
    /// # Errors
    /// Where there is no such kernel, it takes other parameters, or the driver refuses the launch.
    pub fn launch(
        &self,
        stream: &CudaStream,
        name: &str,
        grid: [u32; 2],
        shared: u32,
        params: &mut [u64],
    ) -> Result<()> {
        let kernel = self.kernels.get(name).with_context(|| format!("there is no kernel {name}"))?;
        let (given, taken) = (size_of_val(params), kernel.parameter_bytes);
        ensure!(taken.is_none_or(|taken| taken == given), "{name} takes {taken:?} bytes of parameters, not {given}");
        let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
        // SAFETY: the kernel takes one struct, of which `params` has the size and the layout; what its addresses point to is
        // of spans whose bounds were checked.
        unsafe {
            let (grid, block) = ((grid[0], grid[1], 1), (BLOCK as u32, 1, 1));
            result::launch_kernel(kernel.function, grid, block, shared, stream.cu_stream(), &mut pointers)
        }
        .map_err(error::driver)
        .with_context(|| format!("kernel {name}"))
    }
}

/// Names of the kernels in PTX, and the bytes of their parameter where it says so.
fn entries(ptx: &str) -> impl Iterator<Item = (&str, Option<usize>)> {
    ptx.split(".visible .entry ").skip(1).filter_map(|text| {
        let (name, rest) = text.split_once('(')?;
        let (parameters, _) = rest.split_once(')')?;
        let bytes = parameters.split_once("_param_0[").and_then(|(_, bytes)| bytes.split_once(']')?.0.parse().ok());
        Some((name, bytes))
    })
}

/// One module with its PTX: as embedded, or compiled here where nothing is, or where the driver is older than the compiler
/// that the program was built with.
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
                debug!("the driver is too old for the embedded kernels/{}.cu: it is compiled here", module.file);
            }
            loaded => return Ok((Cow::Borrowed(ptx), loaded.map_err(error::driver)?)),
        }
    }
    let source = SOURCES.iter().find(|(file, _)| *file == module.file).context("its source is not embedded")?.1;
    let compiled = compile::at_run_time(module, source, HEADERS, storage);
    let compiled = match embedded {
        Some(_) => compiled.context("the NVIDIA driver is too old for the kernels of this program; update it"),
        None => compiled,
    }?;
    let loaded = load(&compiled).map_err(error::driver)?;
    Ok((Cow::Owned(compiled), loaded))
}

#[cfg(test)]
mod tests {
    use super::{MODULES, PTX, SOURCES, entries};

    #[test]
    fn every_kernel_has_a_name_of_its_own() {
        let kernels = SOURCES.iter().flat_map(|(_, source)| source.split("\nKERNEL(").skip(1));
        let mut names: Vec<&str> = kernels.map(|kernel| kernel.split_once(',').expect("a name").0).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two kernels have one name");
        // Embedded code is there for all or for none.
        assert!(PTX.is_empty() || PTX.len() == 2 * MODULES.len());
    }

    #[test]
    fn kernels_are_found_in_ptx() {
        let ptx = ".visible .entry copy_f32(\n\t.param .align 8 .b8 copy_f32_param_0[24]\n)\n{}\n\
                   .visible .entry add_f32()\n{}\n";
        assert_eq!(entries(ptx).collect::<Vec<_>>(), [("copy_f32", Some(24)), ("add_f32", None)]);
    }
}

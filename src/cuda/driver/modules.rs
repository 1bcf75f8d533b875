//! Loads the kernels, embedded as PTX or compiled at run time, and launches them; each kernel takes one parameter
//! struct.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::io::Read;
use std::ptr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use flate2::read::ZlibDecoder;
use tracing::debug;

use super::probe::USUAL_SHARED_LIMIT;
use super::sources::{DEPENDENT_LAUNCH, Module, Target, modules_for};
use super::{Turn, blas, blas_lt, compile, error, probe};
use crate::cuda::program::KernelLaunch;
use crate::ops::Precision;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// A module that was compiled at build time.
pub struct Embedded {
    /// Its file in `kernels/`, without the extension.
    pub module: &'static str,
    /// The storage type, `f32`, `f16` or `bf16`.
    pub storage: &'static str,
    /// The architecture that it was compiled for, such as `75` or `90a`.
    pub target: &'static str,
    /// The PTX in zlib format.
    ptx: &'static [u8],
}

impl Embedded {
    /// # Errors
    /// If the program's file is damaged.
    pub fn ptx(&self) -> Result<String> {
        let mut text = String::new();
        let read = ZlibDecoder::new(self.ptx).read_to_string(&mut text);
        read.with_context(|| format!("the kernels/{}.cu in this program's file are damaged", self.module))?;
        Ok(text)
    }
}

/// The kernels that were compiled at build time. Empty if the program was built without NVRTC.
pub fn embedded() -> &'static [Embedded] {
    EMBEDDED
}

/// Identifies everything besides the operator that measured times depend on: the device, the driver, cuBLAS, cuBLASLt,
/// cuDNN (its version number, if it is installed), a fingerprint of the kernels' sources and of the code that decides how
/// they are launched, and whether launches are dependent.
pub(in crate::cuda) fn identity(
    context: &CudaContext,
    cudnn: Option<usize>,
    dependent_launches: bool,
) -> Result<String> {
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
    let cudnn = cudnn.map(|version| format!(", cuDNN {version}")).unwrap_or_default();
    let launches = if dependent_launches { ", dependent launches" } else { "" };
    Ok(format!(
        "{name}, {major}.{minor}, driver {}.{}, cuBLAS {cublas}, {lt}{cudnn}, kernels {kernels:016x}{launches}",
        driver.0, driver.1
    ))
}

struct Kernel {
    function: sys::CUfunction,
    /// Size of its parameter according to the PTX; `None` if the PTX does not state it, such as the emulator's.
    parameter_bytes: Option<usize>,
    /// Whether it waits for the previous kernel of the stream before it accesses memory.
    waits: bool,
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
    match precision {
        Precision::Fp32 | Precision::Tf32 => "f32",
        Precision::Fp16 => "f16",
        Precision::Bf16 => "bf16",
    }
}

/// All kernels of one storage type on one device.
pub(in crate::cuda) struct Modules {
    kernels: HashMap<String, Kernel>,
    /// Whether a kernel may be scheduled before the previous kernel has completed.
    pub dependent_launches: bool,
    /// The modules, which own the functions.
    _owners: Vec<Arc<CudaModule>>,
}

// SAFETY: function handles may be used from any thread that has the context current.
unsafe impl Send for Modules {}

impl Modules {
    /// Loads the modules for a device and a precision. Kernels are named as in the `KERNEL` macro of the sources.
    /// `dependent_launches` allows programmatic dependent launch, where device and driver have it.
    ///
    /// # Errors
    /// If the driver rejects the code, or it must be compiled at run time and that fails.
    pub fn load(
        context: &Arc<CudaContext>,
        capability: u32,
        precision: Precision,
        dependent_launches: bool,
    ) -> Result<Self> {
        let storage = storage_of(precision);
        let dependent_launches = dependent_launches && probe::has_dependent_launch(capability)?;
        let (mut kernels, mut modules) = (HashMap::new(), Vec::new());
        for (module, target) in modules_for(capability, storage, precision != Precision::Fp32) {
            let (file, waits) = (module.name, target.capability >= DEPENDENT_LAUNCH);
            let (ptx, loaded) =
                load_module(context, module, target, storage).with_context(|| format!("loading kernels/{file}.cu"))?;
            for (entry, parameter_bytes) in entries(&ptx) {
                let function = loaded.load_function(entry).map_err(error::driver);
                let function = function.with_context(|| format!("kernel {entry} of kernels/{file}.cu"))?.cu_function();
                let name = entry.trim_end_matches(&format!("_{storage}"));
                let shared_limit = Cell::new(USUAL_SHARED_LIMIT);
                kernels.insert(name.to_string(), Kernel { function, parameter_bytes, waits, shared_limit });
            }
            modules.push(loaded);
        }
        Ok(Self { kernels, dependent_launches, _owners: modules })
    }

    /// Launches a kernel with the given parameters, whose addresses are the device's. `follows_kernel` says that the
    /// previous work in the stream is a kernel of these modules; this one may then be scheduled before that one has
    /// completed.
    ///
    /// # Errors
    /// If the kernel does not exist, its parameters have another size, or the driver rejects the launch.
    pub fn launch(
        &self,
        stream: &CudaStream,
        launch: &KernelLaunch,
        params: &mut [u64],
        follows_kernel: bool,
    ) -> Result<()> {
        let KernelLaunch { ref name, grid, block, shared, .. } = *launch;
        let kernel = self.kernels.get(name).with_context(|| format!("there is no kernel {name}"))?;
        let (given, taken) = (size_of_val(params), kernel.parameter_bytes);
        if let Some(taken) = taken {
            ensure!(taken == given, "{name} takes {taken} bytes of parameters, not {given}");
        }
        kernel.allow_shared(shared).with_context(|| format!("kernel {name}"))?;
        let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
        let dependent = follows_kernel && self.dependent_launches && kernel.waits;
        // SAFETY: the kernel takes one struct, and `params` has its size and layout; its addresses point into spans
        // whose bounds were checked. A dependent kernel accesses none of them before the previous kernel is complete.
        unsafe {
            if dependent {
                launch_dependent(kernel.function, stream, launch, &mut pointers)
            } else {
                let (grid, block) = ((grid[0], grid[1], 1), (block, 1, 1));
                result::launch_kernel(kernel.function, grid, block, shared, stream.cu_stream(), &mut pointers)
            }
        }
        .map_err(error::driver)
        .with_context(|| format!("kernel {name}"))
    }
}

/// Launches a kernel whose blocks may be scheduled as soon as all blocks of the previous kernel run or have ended.
///
/// # Safety
/// As for [`result::launch_kernel`]; and both kernels must wait for their predecessor before they access global memory.
unsafe fn launch_dependent(
    function: sys::CUfunction,
    stream: &CudaStream,
    &KernelLaunch { grid, block, shared, .. }: &KernelLaunch,
    parameters: &mut [*mut c_void],
) -> Result<(), DriverError> {
    let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = 1;
    let mut attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
    let config = sys::CUlaunchConfig {
        gridDimX: grid[0],
        gridDimY: grid[1],
        gridDimZ: 1,
        blockDimX: block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared,
        hStream: stream.cu_stream(),
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    // SAFETY: the caller's contract; the driver copies the configuration and its attribute.
    unsafe { sys::cuLaunchKernelEx(&raw const config, function, parameters.as_mut_ptr(), ptr::null_mut()).result() }
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

/// Loads a module for a target and returns its PTX. The PTX is compiled at run time if none is embedded, or if the driver
/// is older than the NVRTC that compiled the embedded PTX.
fn load_module(
    context: &Arc<CudaContext>,
    module: &Module,
    target: Target,
    storage: &str,
) -> Result<(String, Arc<CudaModule>)> {
    let load = |ptx: &str| {
        let _turn = Turn::take();
        context.load_module(Ptx::from_src(ptx))
    };
    let is_it = |it: &&Embedded| it.module == module.name && it.storage == storage && it.target == target.name();
    let embedded = EMBEDDED.iter().find(is_it);
    if let Some(embedded) = embedded {
        let ptx = embedded.ptx()?;
        match load(&ptx) {
            Err(DriverError(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)) => {
                debug!("the driver is too old for the embedded kernels/{}.cu, so it is compiled now", module.name);
            }
            loaded => return Ok((ptx, loaded.map_err(error::driver)?)),
        }
    }
    let source = SOURCES.iter().find(|(file, _)| *file == module.name).context("the source is not embedded")?.1;
    let compiled = compile::at_run_time(module, target, source, HEADERS, storage);
    let compiled = match embedded {
        Some(_) => compiled.context("the NVIDIA driver is too old for the kernels of this program; update it"),
        None => compiled,
    }?;
    let loaded = load(&compiled).map_err(error::driver)?;
    Ok((compiled, loaded))
}

/// The names of the kernels in a source file.
#[cfg(test)]
fn kernels_in(source: &str) -> impl Iterator<Item = &str> {
    source.split("\nKERNEL(").skip(1).filter_map(|kernel| Some(kernel.split_once(',')?.0))
}

/// The names of the kernels that a device loads, by its compute capability.
#[cfg(test)]
pub(in crate::cuda) fn kernels_for(capability: u32, precision: Precision) -> Vec<&'static str> {
    let source = |&(module, _): &(&Module, Target)| SOURCES.iter().find(|(file, _)| *file == module.name);
    let modules = modules_for(capability, storage_of(precision), precision != Precision::Fp32);
    modules.iter().filter_map(source).flat_map(|(_, source)| kernels_in(source)).collect()
}

#[cfg(test)]
mod tests {
    use super::{EMBEDDED, Module, SOURCES, entries, kernels_in, modules_for};
    use crate::cuda::driver::sources::MODULES;

    #[test]
    fn a_device_loads_the_modules_that_it_can_use() {
        let names = |capability, storage, tensor_cores| {
            let modules = modules_for(capability, storage, tensor_cores);
            let products = ["implicit", "multistage", "patch", "thin", "warpgroup"];
            modules.iter().map(|(module, _)| module.name).filter(|it| products.contains(it)).collect::<Vec<_>>()
        };
        assert_eq!([names(75, "f16", true), names(90, "f32", false)], [["implicit"], ["implicit"]]);
        assert_eq!([names(80, "f32", true), names(120, "f16", true)], [["multistage", "thin"], ["multistage", "thin"]]);
        assert_eq!(names(90, "f32", true), ["multistage", "thin", "warpgroup"]);
        assert_eq!(names(90, "f16", true), ["multistage", "patch", "thin", "warpgroup"]);
        assert_eq!(
            [names(80, "bf16", true), names(120, "bf16", true)],
            [["multistage", "thin"], ["multistage", "thin"]]
        );
        assert_eq!(names(90, "bf16", true), ["multistage", "patch", "thin", "warpgroup"]);
        assert!(modules_for(75, "bf16", true).is_empty());
    }

    #[test]
    fn a_device_loads_the_highest_target_that_it_can_use() {
        let targets_of = |capability, storage| {
            let modules = modules_for(capability, storage, true).into_iter();
            let three = modules.filter(|(module, _)| ["pool", "thin", "patch"].contains(&module.name));
            three.map(|(_, target)| target.name()).collect::<Vec<_>>()
        };
        let targets = |capability| targets_of(capability, "f16");
        assert_eq!(targets(75), ["75"]);
        assert_eq!([targets_of(86, "bf16"), targets_of(120, "bf16")], [["80", "80"], ["90", "90"]]);
        assert_eq!([targets(80), targets(89)], [["75", "80"], ["75", "80"]]);
        assert_eq!(targets(90), ["90a", "90", "90"]);
        assert_eq!([targets(100), targets(120)], [["90", "90"], ["90", "90"]]);
        for module in MODULES {
            for storage in module.storages {
                assert!(module.targets(storage).is_sorted_by_key(|it| it.capability), "{} {storage}", module.name);
            }
        }
    }

    #[test]
    fn kernel_names_are_unique() {
        let mut names: Vec<&str> = SOURCES.iter().flat_map(|(_, source)| kernels_in(source)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two kernels have the same name");
        // Either all modules are embedded or none.
        let targets = |module: &Module| module.storages.iter().map(|it| module.targets(it).count()).sum::<usize>();
        let all: usize = MODULES.iter().map(targets).sum();
        assert!(EMBEDDED.is_empty() || EMBEDDED.len() == all);
    }

    #[test]
    fn entries_lists_the_kernels_in_ptx() {
        let ptx = ".visible .entry copy_f32(\n\t.param .align 8 .b8 copy_f32_param_0[24]\n)\n{}\n\
                   .visible .entry add_f32()\n{}\n";
        assert_eq!(entries(ptx).collect::<Vec<_>>(), [("copy_f32", Some(24)), ("add_f32", None)]);
    }
}

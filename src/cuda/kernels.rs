//! The kernels as embedded or compiled here, loaded once, and launched only with arguments of their signature.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use tracing::debug;

use super::{compile, error};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels that were compiled with the program: file, storage type, target and PTX. Empty where it was built without
/// NVRTC.
pub fn embedded() -> &'static [(&'static str, &'static str, u32, &'static str)] {
    PTX
}

/// Changes with the kernels' sources, and with what decides how they are launched.
pub(super) fn fingerprint() -> u64 {
    let launchers = [include_str!("cut.rs"), include_str!("implicit.rs"), include_str!("direct.rs")];
    let texts = SOURCES.iter().chain(HEADERS).map(|(_, text)| *text).chain(launchers);
    crate::rng::fingerprint(texts.map(str::as_bytes))
}

/// Threads of every block; `BLOCK` in `kernels/common.cuh`.
pub(super) const BLOCK: u32 = 256;

/// The largest grid of a grid-stride kernel: enough to fill any device many times over.
const MAX_BLOCKS: u64 = 1 << 16;

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// The type of a kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pointer,
    U32,
    U64,
    F32,
}

struct Kernel {
    function: sys::CUfunction,
    parameters: Vec<Kind>,
}

/// All kernels of one storage type on one device.
pub(super) struct Kernels {
    kernels: HashMap<String, Kernel>,
    /// The modules own the functions.
    _modules: Vec<Arc<CudaModule>>,
}

// SAFETY: function handles may be used from any thread that has the context current.
unsafe impl Send for Kernels {}

impl Kernels {
    /// Loads the kernel files for `storage` (`f32` or `f16`) but those of `without`.
    ///
    /// # Errors
    /// Where the driver refuses the code, or it has to be compiled here and cannot be.
    pub fn load(context: &Arc<CudaContext>, storage: &str, without: &[&str]) -> Result<Self> {
        let (mut kernels, mut modules) = (HashMap::new(), Vec::new());
        for &(stem, source) in SOURCES.iter().filter(|(stem, _)| !without.contains(stem)) {
            let module =
                load_module(context, stem, source, storage).with_context(|| format!("loading kernels/{stem}.cu"))?;
            for (name, parameters) in signatures(source)? {
                let function = module
                    .load_function(&format!("{name}_{storage}"))
                    .map_err(error::driver)
                    .with_context(|| format!("kernel {name} of kernels/{stem}.cu"))?;
                kernels.insert(name, Kernel { function: function.cu_function(), parameters });
            }
            modules.push(module);
        }
        Ok(Self { kernels, _modules: modules })
    }

    /// Launches a kernel that covers any `count` of items with any grid.
    pub fn launch(&self, stream: &CudaStream, name: &str, count: usize, args: &[Arg]) -> Result<()> {
        let blocks = (count as u64).div_ceil(u64::from(BLOCK)).clamp(1, MAX_BLOCKS);
        self.launch_grid(stream, name, [blocks as u32, 1], args)
    }

    /// Launches a kernel on exactly that grid.
    pub fn launch_grid(&self, stream: &CudaStream, name: &str, grid: [u32; 2], args: &[Arg]) -> Result<()> {
        self.launch_shared(stream, name, grid, 0, args)
    }

    /// The same, with `shared` bytes of dynamic shared memory.
    ///
    /// # Errors
    /// Where there is no such kernel, the arguments are not of its signature, or the driver refuses the launch.
    pub fn launch_shared(
        &self,
        stream: &CudaStream,
        name: &str,
        grid: [u32; 2],
        shared: u32,
        args: &[Arg],
    ) -> Result<()> {
        let kernel = self.kernels.get(name).with_context(|| format!("there is no kernel {name}"))?;
        let kinds: Vec<Kind> = args.iter().map(Arg::kind).collect();
        ensure!(kinds == kernel.parameters, "{name} takes {:?}, not {kinds:?}", kernel.parameters);
        let mut values: Vec<u64> = args.iter().map(Arg::bits).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        // SAFETY: number and types of the arguments are those of the kernel's signature, as just checked; what their
        // pointers point to is the callers' spans, whose bounds were checked.
        unsafe {
            let (grid, block) = ((grid[0], grid[1], 1), (BLOCK, 1, 1));
            result::launch_kernel(kernel.function, grid, block, shared, stream.cu_stream(), &mut pointers)
        }
        .map_err(error::driver)
        .with_context(|| format!("kernel {name}"))
    }
}

/// One kernel file: as embedded, or compiled here where nothing is, or where the driver is older than the compiler that
/// the program was built with.
fn load_module(context: &Arc<CudaContext>, stem: &str, source: &str, storage: &str) -> Result<Arc<CudaModule>> {
    let load = |ptx: &str| context.load_module(Ptx::from_src(ptx));
    let embedded = PTX.iter().find(|(name, of, ..)| *name == stem && *of == storage);
    if let Some((.., ptx)) = embedded {
        match load(ptx) {
            Err(DriverError(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)) => {
                debug!("the driver is too old for the embedded kernels/{stem}.cu: it is compiled here");
            }
            module => return module.map_err(error::driver),
        }
    }
    let compiled = compile::at_run_time(stem, source, HEADERS, storage);
    let compiled = match embedded {
        Some(_) => compiled.context("the NVIDIA driver is too old for the kernels of this program; update it"),
        None => compiled,
    };
    load(&compiled?).map_err(error::driver)
}

impl Arg {
    fn kind(&self) -> Kind {
        match self {
            Self::Pointer(_) => Kind::Pointer,
            Self::U32(_) => Kind::U32,
            Self::U64(_) => Kind::U64,
            Self::F32(_) => Kind::F32,
        }
    }

    /// The value in the first bytes of eight; devices and hosts are little-endian.
    fn bits(&self) -> u64 {
        match *self {
            Self::Pointer(value) | Self::U64(value) => value,
            Self::U32(value) => value.into(),
            Self::F32(value) => value.to_bits().into(),
        }
    }
}

/// A `usize` as a kernel's 32-bit parameter.
///
/// # Errors
/// Where it is too large: the operator does not work on that many.
pub(super) fn u32_arg(value: usize) -> Result<Arg> {
    Ok(Arg::U32(u32::try_from(value).map_err(|_| anyhow!("{value} is too large for a CUDA kernel's parameter"))?))
}

/// Names and parameters of all `KERNEL(name)(parameters)` of a source.
fn signatures(source: &str) -> Result<Vec<(String, Vec<Kind>)>> {
    let definitions = source.split("\nKERNEL(").skip(1);
    definitions
        .map(|definition| {
            let (name, rest) = definition.split_once(')').context("KERNEL( without a name")?;
            let parameters =
                rest.split_once('(').and_then(|(_, rest)| rest.split_once(')')).context("no parameters")?.0;
            let kinds = parameters.split(',').map(kind_of).collect::<Result<_>>().with_context(|| name.to_string())?;
            Ok((name.to_string(), kinds))
        })
        .collect()
}

/// The type of `const float* __restrict__ input`, `u64 count` and the like.
fn kind_of(parameter: &str) -> Result<Kind> {
    if parameter.contains('*') {
        return Ok(Kind::Pointer);
    }
    match parameter.split_whitespace().next() {
        Some("u32") => Ok(Kind::U32),
        Some("u64") => Ok(Kind::U64),
        Some("float") => Ok(Kind::F32),
        other => bail!("a parameter of type {other:?} cannot be passed"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, PTX, SOURCES, signatures};

    #[test]
    fn every_kernel_has_a_signature_that_can_be_checked() {
        let all: Vec<_> = SOURCES.iter().flat_map(|(_, source)| signatures(source).expect("signatures")).collect();
        let sgd = all.iter().find(|(name, _)| name == "sgd").expect("sgd");
        use Kind::{F32, Pointer, U32, U64};
        let pointers = vec![Pointer; 12];
        assert_eq!(sgd.1, [pointers, vec![U64, U64, F32, F32, F32, F32, F32, U32]].concat());
        let mut names: Vec<&String> = all.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len(), "two kernels have one name");
        // Embedded code is there for all or for none.
        assert!(PTX.is_empty() || PTX.len() == 2 * SOURCES.len());
    }
}

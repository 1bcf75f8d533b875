//! Matrix products by cuBLAS.

use std::cell::OnceCell;
use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use cudarc::cublas::sys::{self, cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t};
use cudarc::cublas::{CudaBlas, result};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use tracing::debug;

use super::blas_lt::BlasLt;
use super::{Turn, error, libraries, probe};
use crate::cuda::gemm::{Gemm, LtEpilogue, Operand};
use crate::ops::Precision;

/// Bytes of cuBLAS's workspace: NVIDIA's recommendation for Hopper, more than older devices need. It is set explicitly
/// because cuBLAS must not allocate during capture, and because a fixed workspace keeps results reproducible.
const WORKSPACE: usize = 32 << 20;

/// A generous estimate of the other device memory that cuBLAS and cuBLASLt allocate.
const CUBLAS_MEMORY: usize = 1 << 30;

/// cuBLAS and cuBLASLt on one stream. Initialising them is slow, so each is initialised by its first product, which
/// must not be in a capture.
pub(in crate::cuda) struct Blas {
    stream: Arc<CudaStream>,
    precision: Precision,
    handle: OnceCell<CudaBlas>,
    lt: OnceCell<Option<BlasLt>>,
    /// Shared by both libraries, which never run at the same time.
    workspace: CudaSlice<u8>,
    /// Taken by `drop` and held until both handles are destroyed, so it must be the last field.
    _turn: Option<Turn>,
}

// SAFETY: the handles are used by one thread at a time, as `&mut` of the backend guarantees.
unsafe impl Send for Blas {}

impl Blas {
    /// # Errors
    /// If this machine has no cuBLAS, or the device too little memory for the workspace.
    pub fn new(stream: &Arc<CudaStream>, precision: Precision) -> Result<Self> {
        find_library()?;
        // SAFETY: cuBLAS writes its workspace before it reads it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }.map_err(error::driver)?;
        let (handle, lt) = (OnceCell::new(), OnceCell::new());
        Ok(Self { stream: stream.clone(), precision, handle, lt, workspace, _turn: None })
    }

    /// The cuBLAS handle, created on first use.
    fn handle(&self) -> Result<&CudaBlas> {
        match self.handle.get() {
            Some(handle) => Ok(handle),
            None => {
                let handle = self.start()?;
                Ok(self.handle.get_or_init(|| handle))
            }
        }
    }

    fn workspace(&self) -> u64 {
        self.workspace.device_ptr(&self.stream).0
    }

    fn start(&self) -> Result<CudaBlas> {
        let _turn = Turn::take();
        let handle = CudaBlas::new(self.stream.clone()).map_err(error::cublas).context("creating a cuBLAS handle")?;
        // SAFETY: the workspace lives as long as the handle; `self` owns both.
        let status =
            unsafe { sys::cublasSetWorkspace_v2(*handle.handle(), self.workspace() as *mut c_void, WORKSPACE) };
        status.result().map_err(error::cublas).context("setting cuBLAS's workspace")?;
        // By default cuBLAS may sum split-K parts of a half-precision product in half precision.
        let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: the handle is alive.
        let status = unsafe { sys::cublasSetMathMode(*handle.handle(), mode) };
        status.result().map_err(error::cublas).context("setting cuBLAS's math mode")?;
        Ok(handle)
    }

    /// cuBLASLt, initialised on first use; `None` if this machine does not have it.
    fn lt(&self) -> Option<&BlasLt> {
        let start = || {
            let _turn = Turn::take();
            BlasLt::new(&self.stream, self.precision, (self.workspace(), WORKSPACE))
        };
        self.lt.get_or_init(start).as_ref()
    }

    /// Whether cuBLASLt is available and supports a product with this epilogue. Only the alignment of the addresses
    /// matters.
    pub fn lt_supports(&self, gemm: &Gemm, epilogue: &LtEpilogue) -> bool {
        self.lt().is_some_and(|lt| lt.supports(gemm, epilogue))
    }

    /// Computes a product with its epilogue by cuBLASLt.
    pub fn lt_gemm(&self, gemm: &Gemm, epilogue: &LtEpilogue) -> Result<()> {
        self.lt().context("cuBLASLt was not found (libcublasLt.so)")?.gemm(gemm, epilogue)
    }

    /// Initialises both libraries now if allocating `needed` bytes would leave them little memory, so that the check
    /// whether those bytes fit counts the libraries' memory as used. If one fails to initialise, its first product
    /// reports the error.
    pub fn start_early_if_memory_is_low(&self, needed: usize) -> Result<()> {
        let (free, _) = self.stream.context().mem_get_info().map_err(error::driver)?;
        if needed.saturating_add(CUBLAS_MEMORY) > free {
            let started = self.handle().map(|_| ());
            debug!("memory is low, so cuBLAS is initialised first: {started:?}, cuBLASLt: {}", self.lt().is_some());
        }
        Ok(())
    }

    /// Computes a product on the stream.
    ///
    /// cuBLAS is column-major and so reads a row-major matrix as its transpose: it computes `cᵀ = bᵀ · aᵀ`, without
    /// copies.
    ///
    /// # Errors
    /// If a size exceeds cuBLAS's 32 bits, or cuBLAS fails.
    pub fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let Gemm { m, n, k, a, b, c, float_result, accumulate } = *gemm;
        let size = |value: usize| {
            i32::try_from(value).map_err(|_| anyhow!("a matrix product of {m}×{n}×{k} exceeds cuBLAS's 32-bit sizes"))
        };
        let operation = |operand: Operand<u64>| match operand.transposed {
            true => cublasOperation_t::CUBLAS_OP_T,
            false => cublasOperation_t::CUBLAS_OP_N,
        };
        let (leading_a, leading_b) = (if a.transposed { m } else { k }, if b.transposed { k } else { n });
        let (alpha, beta) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        let (compute, real) = match self.precision {
            Precision::Fp16 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_16F),
            Precision::Bf16 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_16BF),
            Precision::Tf32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, cudaDataType_t::CUDA_R_32F),
            Precision::Fp32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F),
        };
        let result_type = if float_result { cudaDataType_t::CUDA_R_32F } else { real };
        let handle = *self.handle()?.handle();
        // SAFETY: the addresses are of spans that contain the whole matrices; the scalars are read before the call
        // returns.
        unsafe {
            result::gemm_ex(
                handle,
                operation(b),
                operation(a),
                size(n)?,
                size(m)?,
                size(k)?,
                (&raw const alpha).cast(),
                b.address as *const c_void,
                real,
                size(leading_b)?,
                a.address as *const c_void,
                real,
                size(leading_a)?,
                (&raw const beta).cast(),
                c as *mut c_void,
                result_type,
                size(n)?,
                compute,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(error::cublas)
        .with_context(|| format!("a matrix product of {m}×{n}×{k}"))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self._turn = Some(Turn::take());
    }
}

/// The version of cuBLAS; the library must have been loaded.
pub(super) fn version() -> Result<String> {
    use sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    let part = |which| -> Result<String> {
        let mut value = 0;
        // SAFETY: the call needs no handle and writes one integer.
        let status = unsafe { sys::cublasGetProperty(which, &raw mut value) };
        status.result().map_err(error::cublas).context("querying the version of cuBLAS")?;
        Ok(value.to_string())
    };
    Ok([part(MAJOR_VERSION)?, part(MINOR_VERSION)?, part(PATCH_LEVEL)?].join("."))
}

/// Ensures that cuBLAS can be loaded, because cudarc panics if it cannot. A library in a Python wheel is opened by its
/// full path; the loader then finds it by name.
fn find_library() -> Result<()> {
    // SAFETY: opening cuBLAS runs no code but its own initialisers.
    let present = || unsafe { sys::is_culib_present() };
    if present() {
        return Ok(());
    }
    // cuBLAS of CUDA 13 does not work with a driver of CUDA 12, so try versions that are not newer than the driver
    // first.
    let (driver, _) = probe::driver_version()?;
    let mut candidates = libraries::candidates("cublas", "CNN_CUDA_CUBLAS", libraries::CUDA_SUFFIXES);
    candidates.sort_by_key(|path| major_version(path).is_some_and(|major| major > driver));
    for path in candidates {
        // SAFETY: as above. The library is never closed, so that the loader finds it by name later.
        if let Ok(library) = unsafe { libloading::Library::new(&path) } {
            std::mem::forget(library);
            if present() {
                return Ok(());
            }
        }
    }
    bail!(
        "cuBLAS was not found (libcublas.so.13 or .12); install the CUDA toolkit or the Python wheel nvidia-cublas, \
         add its folder to LD_LIBRARY_PATH, or set CNN_CUDA_CUBLAS to its path"
    )
}

/// The major version in a file name: 12 for `libcublas.so.12` and `libcublas.so.12.8.4.1`.
fn major_version(path: &Path) -> Option<i32> {
    let name = path.file_name()?.to_str()?;
    name.split_once(".so.")?.1.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::major_version;

    #[test]
    fn major_version_is_read_from_the_file_name() {
        let of = |name: &str| major_version(Path::new(name));
        assert_eq!(of("/wheels/cu13/lib/libcublas.so.13"), Some(13));
        assert_eq!(of("libcublas.so.12.8.4.1"), Some(12));
        assert_eq!((of("/usr/lib/libcublas.so"), of("libcublas.so.x")), (None, None));
    }
}

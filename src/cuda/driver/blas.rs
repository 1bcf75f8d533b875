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

/// cuBLAS's workspace: what NVIDIA recommends for Hopper, more than older devices need. Set by hand, because cuBLAS
/// must not allocate while a graph is captured, and because a fixed one keeps results reproducible.
const WORKSPACE: usize = 32 << 20;

/// What cuBLAS and cuBLASLt take besides, amply.
const CUBLAS_MEMORY: usize = 1 << 30;

/// cuBLAS and cuBLASLt on one stream. Starting them takes longer than many a step: each is started by the first product that
/// it computes, which must not be in a capture.
pub(in crate::cuda) struct Blas {
    stream: Arc<CudaStream>,
    precision: Precision,
    handle: OnceCell<CudaBlas>,
    lt: OnceCell<Option<BlasLt>>,
    /// Of both, which never run at the same time.
    workspace: CudaSlice<u8>,
    /// Holds while both are dropped; the last field.
    _turn: Option<Turn>,
}

// SAFETY: the handles are used by one thread at a time, as `&mut` of the backend guarantees.
unsafe impl Send for Blas {}

impl Blas {
    /// # Errors
    /// Where this machine has no cuBLAS.
    pub fn new(stream: &Arc<CudaStream>, precision: Precision) -> Result<Self> {
        find_library()?;
        // SAFETY: cuBLAS writes its workspace before it reads it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }.map_err(error::driver)?;
        let (handle, lt) = (OnceCell::new(), OnceCell::new());
        Ok(Self { stream: stream.clone(), precision, handle, lt, workspace, _turn: None })
    }

    /// cuBLAS, started where it is not.
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
        let handle = CudaBlas::new(self.stream.clone()).map_err(error::cublas).context("making a cuBLAS handle")?;
        // SAFETY: the workspace lives as long as the handle, beside it.
        let status =
            unsafe { sys::cublasSetWorkspace_v2(*handle.handle(), self.workspace() as *mut c_void, WORKSPACE) };
        status.result().map_err(error::cublas).context("cuBLAS's workspace")?;
        // cuBLAS may else add up parts of a half-precision product in half precision.
        let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: the handle is alive.
        let status = unsafe { sys::cublasSetMathMode(*handle.handle(), mode) };
        status.result().map_err(error::cublas).context("cuBLAS's math mode")?;
        Ok(handle)
    }

    /// cuBLASLt, started where it is not; nothing where this machine has none.
    fn lt(&self) -> Option<&BlasLt> {
        let start = || {
            let _turn = Turn::take();
            BlasLt::new(&self.stream, self.precision, (self.workspace(), WORKSPACE))
        };
        self.lt.get_or_init(start).as_ref()
    }

    /// Whether cuBLASLt is there and computes a product that ends like this. Of the addresses only the alignment counts.
    pub fn lt_supports(&self, gemm: &Gemm, epilogue: &LtEpilogue) -> bool {
        self.lt().is_some_and(|lt| lt.supports(gemm, epilogue))
    }

    /// Computes a product by cuBLASLt, with what ends it.
    pub fn lt_gemm(&self, gemm: &Gemm, epilogue: &LtEpilogue) -> Result<()> {
        self.lt().context("cuBLASLt was not found (libcublasLt.so)")?.gemm(gemm, epilogue)
    }

    /// Starts both before `needed` bytes are allocated that leave little room for them, so that what fits is judged by
    /// what is free then. Where one does not start, its first product says so.
    pub fn start_early_if_memory_is_low(&self, needed: usize) -> Result<()> {
        let (free, _) = self.stream.context().mem_get_info().map_err(error::driver)?;
        if needed.saturating_add(CUBLAS_MEMORY) > free {
            let started = self.handle().map(|_| ());
            debug!("memory is short, so cuBLAS is started first: {started:?}, cuBLASLt: {}", self.lt().is_some());
        }
        Ok(())
    }

    /// Computes a product on the stream.
    ///
    /// cuBLAS is column-major, where a row-major matrix is its transpose: it computes `cᵀ = bᵀ · aᵀ`, and nothing moves.
    ///
    /// # Errors
    /// Where a size is beyond cuBLAS's 32 bits, or cuBLAS fails.
    pub fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let Gemm { m, n, k, a, b, c, float_result, accumulate } = *gemm;
        let size = |value: usize| {
            i32::try_from(value).map_err(|_| anyhow!("a matrix product of {m}×{n}×{k} is beyond cuBLAS's 32-bit sizes"))
        };
        let operation = |operand: Operand<u64>| match operand.transposed {
            true => cublasOperation_t::CUBLAS_OP_T,
            false => cublasOperation_t::CUBLAS_OP_N,
        };
        let (leading_a, leading_b) = (if a.transposed { m } else { k }, if b.transposed { k } else { n });
        let (alpha, beta) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        let (compute, real) = match self.precision {
            Precision::Fp16 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_16F),
            Precision::Tf32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, cudaDataType_t::CUDA_R_32F),
            Precision::Fp32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F),
        };
        let result_type = if float_result { cudaDataType_t::CUDA_R_32F } else { real };
        let handle = *self.handle()?.handle();
        // SAFETY: the addresses are those of spans that hold the whole matrices; the scalars are read before it returns.
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

/// The version of cuBLAS, which must have been found.
pub(super) fn version() -> Result<String> {
    use sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    let part = |which| -> Result<String> {
        let mut value = 0;
        // SAFETY: the call needs no handle and writes one integer.
        let status = unsafe { sys::cublasGetProperty(which, &raw mut value) };
        status.result().map_err(error::cublas).context("asking cuBLAS for its version")?;
        Ok(value.to_string())
    };
    Ok([part(MAJOR_VERSION)?, part(MINOR_VERSION)?, part(PATCH_LEVEL)?].join("."))
}

/// Makes sure that cuBLAS can be loaded: cudarc panics where it cannot. A library in a Python wheel is found by opening
/// its full path first; the loader then knows it by its name.
fn find_library() -> Result<()> {
    // SAFETY: opening cuBLAS runs no code but its own initialisers.
    let present = || unsafe { sys::is_culib_present() };
    if present() {
        return Ok(());
    }
    // A cuBLAS of CUDA 13 does not start on a driver of CUDA 12; where both are, the one that does comes first.
    let (driver, _) = probe::driver_version()?;
    let mut candidates = libraries::candidates("cublas", "CNN_CUDA_CUBLAS");
    candidates.sort_by_key(|path| major_version(path).is_some_and(|major| major > driver));
    for path in candidates {
        // SAFETY: as above. It stays open for good, as the loader must know it later.
        if let Ok(library) = unsafe { libloading::Library::new(&path) } {
            std::mem::forget(library);
            if present() {
                return Ok(());
            }
        }
    }
    bail!(
        "cuBLAS was not found (libcublas.so.13 or .12); install the CUDA toolkit or the Python wheel nvidia-cublas, put \
         its folder on LD_LIBRARY_PATH, or name it in CNN_CUDA_CUBLAS"
    )
}

/// 12 of `libcublas.so.12` or `libcublas.so.12.8.4.1`.
fn major_version(path: &Path) -> Option<i32> {
    let name = path.file_name()?.to_str()?;
    name.split_once(".so.")?.1.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::major_version;

    #[test]
    fn a_librarys_major_version_is_in_its_name() {
        let of = |name: &str| major_version(Path::new(name));
        assert_eq!(of("/wheels/cu13/lib/libcublas.so.13"), Some(13));
        assert_eq!(of("libcublas.so.12.8.4.1"), Some(12));
        assert_eq!((of("/usr/lib/libcublas.so"), of("libcublas.so.x")), (None, None));
    }
}

//! Matrix products by cuBLAS, in row-major terms.

use std::cell::OnceCell;
use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use cudarc::cublas::sys::{self, cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t};
use cudarc::cublas::{CudaBlas, result};
use cudarc::driver::CudaStream;
use tracing::debug;

use super::gemm_lt::BlasLt;
use super::memory::Buffer;
use super::{error, libraries, probe};

/// cuBLAS's workspace: what NVIDIA recommends for Hopper, more than older devices need. Set by hand, because cuBLAS
/// must not allocate while a graph is captured, and because a fixed one keeps results reproducible.
const WORKSPACE: usize = 32 << 20;

/// What cuBLAS and cuBLASLt take besides on two streams, amply.
const ROOM: usize = 1 << 30;

/// A matrix on the device; `transposed` where memory holds the transpose, row-major as well.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub address: u64,
    pub transposed: bool,
}

/// `c [m, n] = a [m, k] · b [k, n]`
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
    pub c: u64,
    /// Whether `c` is fp32 whatever the storage: weight gradients are.
    pub float_result: bool,
    /// Whether to add to what is in `c`.
    pub accumulate: bool,
}

/// cuBLAS and cuBLASLt on one stream. Starting them takes longer than many a step: each is started by the first product that
/// it computes, which must not be in a recording.
pub(super) struct Blas {
    stream: Arc<CudaStream>,
    precision: &'static str,
    handle: OnceCell<CudaBlas>,
    lt: OnceCell<Option<BlasLt>>,
    /// Of both, which never run at the same time.
    workspace: Buffer,
}

// SAFETY: the handles are used by one thread at a time, as `&mut` of the backend guarantees.
unsafe impl Send for Blas {}

impl Blas {
    /// `precision` is `fp32`, `tf32` or `fp16`.
    ///
    /// # Errors
    /// Where this machine has no cuBLAS.
    pub fn new(stream: &Arc<CudaStream>, precision: &'static str) -> Result<Self> {
        find_library()?;
        let workspace = Buffer::new(stream, WORKSPACE).map_err(error::driver)?;
        Ok(Self { stream: stream.clone(), precision, handle: OnceCell::new(), lt: OnceCell::new(), workspace })
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

    fn start(&self) -> Result<CudaBlas> {
        let handle = CudaBlas::new(self.stream.clone()).map_err(error::cublas).context("making a cuBLAS handle")?;
        // SAFETY: the workspace lives as long as the handle, beside it.
        let status =
            unsafe { sys::cublasSetWorkspace_v2(*handle.handle(), self.workspace.address() as *mut c_void, WORKSPACE) };
        status.result().map_err(error::cublas).context("cuBLAS's workspace")?;
        // cuBLAS may else add up parts of a half-precision product in half precision.
        let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: the handle is alive.
        let status = unsafe { sys::cublasSetMathMode(*handle.handle(), mode) };
        status.result().map_err(error::cublas).context("cuBLAS's math mode")?;
        Ok(handle)
    }

    /// cuBLASLt, started where it is not; nothing where this machine has none.
    pub fn lt(&self) -> Option<&BlasLt> {
        let start = || BlasLt::new(&self.stream, self.precision, (self.workspace.address(), WORKSPACE));
        self.lt.get_or_init(start).as_ref()
    }

    /// Starts cuBLAS, for a product that may come in a recording.
    pub fn prepare(&self) -> Result<()> {
        self.handle().map(|_| ())
    }

    /// Starts both before `needed` bytes are allocated that leave little room for them, so that what fits is told of what is
    /// free then. Where one does not start, its first product tells.
    pub fn prepare_where_short(&self, needed: usize) -> Result<()> {
        let (free, _) = self.stream.context().mem_get_info().map_err(error::driver)?;
        if needed.saturating_add(ROOM) > free {
            let started = self.prepare();
            debug!("memory is short, so cuBLAS is started first: {started:?}, cuBLASLt: {}", self.lt().is_some());
        }
        Ok(())
    }

    /// Starts what is started in `other`.
    pub fn prepare_as(&self, other: &Self) -> Result<()> {
        other.lt.get().map(|_| self.lt());
        other.handle.get().map_or(Ok(()), |_| self.prepare())
    }

    /// Computes a product on the stream.
    ///
    /// cuBLAS is column-major, where a row-major matrix is its transpose: it computes `cᵀ = bᵀ · aᵀ`, and nothing moves.
    ///
    /// # Errors
    /// Where a size is beyond cuBLAS's 32 bits, or cuBLAS fails.
    pub fn product(&self, product: Product) -> Result<()> {
        let Product { m, n, k, a, b, c, float_result, accumulate } = product;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let size = |value: usize| {
            i32::try_from(value).map_err(|_| anyhow!("a matrix product of {m}×{n}×{k} is beyond cuBLAS's 32-bit sizes"))
        };
        let operation = |operand: Operand| match operand.transposed {
            true => cublasOperation_t::CUBLAS_OP_T,
            false => cublasOperation_t::CUBLAS_OP_N,
        };
        let (leading_a, leading_b) = (if a.transposed { m } else { k }, if b.transposed { k } else { n });
        let (alpha, beta) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        let (compute, real) = match self.precision {
            "fp16" => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_16F),
            "tf32" => (cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, cudaDataType_t::CUDA_R_32F),
            _ => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F),
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
    ensure!(
        present(),
        "cuBLAS was not found (libcublas.so.13 or .12); install the CUDA toolkit or the Python wheel nvidia-cublas, put \
         its folder on LD_LIBRARY_PATH, or name it in CNN_CUDA_CUBLAS"
    );
    Ok(())
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

//! Matrix products by cuBLASLt, with bias and ReLU, or their gradients, as an epilogue in the same launch.
//!
//! Descriptors are created for every call and not cached, because calls are captured once and then replayed.

use std::ffi::c_void;
use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreferenceAttributes_t as Preference, cublasStatus_t,
    cudaDataType_t,
};
use cudarc::driver::CudaStream;
use tracing::{debug, warn};

use super::error;
use crate::cuda::gemm::{EpilogueKind, Gemm, LtEpilogue, Operand};
use crate::ops::Precision;

/// Split-K parts are summed in the compute type, never in the type of the result.
const SUMS_IN_FP32: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

/// cuBLASLt's constant for an epilogue.
fn code(epilogue: &LtEpilogue) -> cublasLtEpilogue_t {
    match (epilogue.kind, epilogue.mask, epilogue.bias) {
        (EpilogueKind::Bias, ..) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        (EpilogueKind::BiasRelu, None, _) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
        (EpilogueKind::BiasRelu, Some(_), _) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
        (EpilogueKind::ReluGradient, _, None) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DRELU,
        (EpilogueKind::ReluGradient, _, Some(_)) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DRELU_BGRAD,
        // `a` is cuBLASLt's second operand.
        (EpilogueKind::BiasGradient, ..) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
    }
}

/// A cuBLASLt object that is destroyed when dropped.
struct Owned<T: Copy> {
    raw: T,
    destroy: unsafe fn(T) -> Result<(), CublasError>,
}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object was created, and nothing else destroys it. An error cannot be handled here.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

type Layout = Owned<sys::cublasLtMatrixLayout_t>;

/// The arguments of a cuBLASLt call, and the algorithm that its heuristic proposes.
struct Call {
    desc: Owned<sys::cublasLtMatmulDesc_t>,
    /// Layouts of the first operand, the second operand and the result, in cuBLAS's order.
    layouts: [Layout; 3],
    proposal: cublasLtMatmulHeuristicResult_t,
}

/// cuBLASLt on one stream. It shares cuBLAS's workspace, because the two never run at the same time.
pub(super) struct BlasLt {
    handle: Owned<sys::cublasLtHandle_t>,
    stream: Arc<CudaStream>,
    workspace: (u64, usize),
    compute: cublasComputeType_t,
    real: cudaDataType_t,
}

impl BlasLt {
    /// `workspace` is an address and a size in bytes. Returns `None` if cuBLASLt is not installed or does not
    /// initialise; other algorithms then replace it.
    pub fn new(stream: &Arc<CudaStream>, precision: Precision, workspace: (u64, usize)) -> Option<Self> {
        if !is_present() {
            debug!("cuBLASLt was not found");
            return None;
        }
        let raw = result::create_handle().inspect_err(|error| debug!("cuBLASLt failed to initialise: {error}")).ok()?;
        let (compute, real) = match precision {
            Precision::Fp16 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_16F),
            Precision::Bf16 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_16BF),
            Precision::Tf32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, cudaDataType_t::CUDA_R_32F),
            Precision::Fp32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F),
        };
        let handle = Owned { raw, destroy: result::destroy_handle };
        Some(Self { handle, stream: stream.clone(), workspace, compute, real })
    }

    /// Whether cuBLASLt has an algorithm for this product and epilogue.
    pub fn supports(&self, gemm: &Gemm, epilogue: &LtEpilogue) -> bool {
        let Gemm { m, n, k, .. } = *gemm;
        match self.prepare(gemm, epilogue) {
            Ok(_) => true,
            Err(CublasError(cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => {
                debug!("cuBLASLt does not support a matrix product of {m}×{n}×{k} with {:?}", code(epilogue));
                false
            }
            Err(error) => {
                warn!("cuBLASLt rejects a matrix product of {m}×{n}×{k}, so another algorithm is used: {error}");
                false
            }
        }
    }

    /// Computes a product and its epilogue on the stream.
    ///
    /// # Errors
    /// If cuBLASLt does not support the product, or fails.
    pub fn gemm(&self, gemm: &Gemm, epilogue: &LtEpilogue) -> Result<()> {
        let Gemm { m, n, k, a, b, c, .. } = *gemm;
        let run = || {
            let call = self.prepare(gemm, epilogue)?;
            let [first, second, output] = &call.layouts;
            let (alpha, beta) = (1.0_f32, 0.0_f32);
            // SAFETY: the addresses are of spans that contain the whole matrices; the objects and the scalars, which
            // the call reads before it returns, live until then.
            unsafe {
                result::matmul(
                    self.handle.raw,
                    call.desc.raw,
                    (&raw const alpha).cast(),
                    (&raw const beta).cast(),
                    b.address as *const c_void,
                    first.raw,
                    a.address as *const c_void,
                    second.raw,
                    c as *const c_void,
                    output.raw,
                    c as *mut c_void,
                    output.raw,
                    &raw const call.proposal.algo,
                    self.workspace.0 as *mut c_void,
                    self.workspace.1,
                    self.stream.cu_stream().cast(),
                )
            }
        };
        let description = || format!("a matrix product of {m}×{n}×{k} by cuBLASLt");
        run().map_err(error::cublaslt).with_context(description)
    }

    /// Prepares `cᵀ = bᵀ · aᵀ`, as in [`Blas::gemm`](super::blas::Blas::gemm). The bias `[n]` thus has one value per
    /// row of the column-major result, as cuBLASLt requires.
    fn prepare(&self, gemm: &Gemm, epilogue: &LtEpilogue) -> Result<Call, CublasError> {
        let Gemm { m, n, k, a, b, c, float_result, .. } = *gemm;
        let raw = result::create_matmul_desc(self.compute, cudaDataType_t::CUDA_R_32F)?;
        let desc = Owned { raw, destroy: result::destroy_matmul_desc };
        let transposed = |operand: Operand<u64>| i32::from(operand.transposed);
        set_attribute(&desc, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, transposed(b))?;
        set_attribute(&desc, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, transposed(a))?;
        set_attribute(&desc, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, code(epilogue))?;
        if let Some(bias) = epilogue.bias {
            set_attribute(&desc, DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        if let Some(mask) = epilogue.mask {
            set_attribute(&desc, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, mask.address)?;
            set_attribute(&desc, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, mask.leading as i64)?;
        }
        let layouts = [
            layout(self.real, if b.transposed { (k, n) } else { (n, k) })?,
            layout(self.real, if a.transposed { (m, k) } else { (k, m) })?,
            layout(if float_result { cudaDataType_t::CUDA_R_32F } else { self.real }, (n, m))?,
        ];
        let aligned = |address: u64| 1_u32 << address.trailing_zeros().min(8);
        let preference = Owned { raw: result::create_matmul_pref()?, destroy: result::destroy_matmul_pref };
        set_preference(&preference, Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, self.workspace.1)?;
        set_preference(&preference, Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, SUMS_IN_FP32)?;
        // By default cuBLASLt assumes an alignment of 256 bytes. The alignment given for the result covers the bias
        // too.
        let result_address = c | epilogue.bias.unwrap_or(0);
        for (attribute, address) in [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b.address),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a.address),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, result_address),
        ] {
            set_preference(&preference, attribute, aligned(address))?;
        }
        let [first, second, output] = &layouts;
        // SAFETY: all objects are alive.
        let proposal = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle.raw,
                desc.raw,
                first.raw,
                second.raw,
                output.raw,
                output.raw,
                preference.raw,
            )
        }?;
        Ok(Call { desc, layouts, proposal })
    }
}

fn is_present() -> bool {
    // SAFETY: opening cuBLASLt runs no code but its own initialisers.
    unsafe { sys::is_culib_present() }
}

/// cuBLASLt's version number, or `None` if it is not installed.
pub(super) fn version() -> Option<usize> {
    // SAFETY: the library is present, and the function has no arguments.
    is_present().then(|| unsafe { sys::cublasLtGetVersion() })
}

/// The layout of a contiguous column-major matrix.
fn layout(of: cudaDataType_t, (rows, columns): (usize, usize)) -> Result<Layout, CublasError> {
    let raw = result::create_matrix_layout(of, rows as u64, columns as u64, rows as i64)?;
    Ok(Owned { raw, destroy: result::destroy_matrix_layout })
}

/// Sets an attribute of a product; `T` must be the type that cublasLt.h gives for it.
fn set_attribute<T>(
    desc: &Owned<sys::cublasLtMatmulDesc_t>,
    attribute: DescAttribute,
    value: T,
) -> Result<(), CublasError> {
    // SAFETY: the object is alive, and the call reads `size_of::<T>()` bytes.
    unsafe { result::set_matmul_desc_attribute(desc.raw, attribute, (&raw const value).cast(), size_of::<T>()) }
}

/// Sets a constraint on the algorithms that the heuristic may propose.
fn set_preference<T>(
    preference: &Owned<sys::cublasLtMatmulPreference_t>,
    attribute: Preference,
    value: T,
) -> Result<(), CublasError> {
    // SAFETY: as in `set_attribute`.
    unsafe { result::set_matmul_pref_attribute(preference.raw, attribute, (&raw const value).cast(), size_of::<T>()) }
}

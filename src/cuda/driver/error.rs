//! Error messages for CUDA's error codes: the code's name, and its meaning or a remedy.

use std::fmt;

use anyhow::{Error, anyhow};
use cudarc::cublas::result::CublasError;
use cudarc::cublaslt::result::CublasError as CublasLtError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use super::cudnn::Failure;

/// A driver error with its name, and a remedy or the driver's description.
pub(in crate::cuda) fn driver(error: DriverError) -> Error {
    let name = format!("{:?}", error.0);
    match remedy(error.0) {
        Some(remedy) => anyhow!("{name}: {remedy}"),
        None => {
            let text = error.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
            anyhow!("{name}: {text}")
        }
    }
}

fn remedy(code: CUresult) -> Option<&'static str> {
    Some(match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "the device does not have enough memory; try a smaller --batch-size",
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the NVIDIA driver is older than the NVRTC that compiled the kernels; update the driver, or build with an \
             older NVRTC (CNN_CUDA_NVRTC)"
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
            "the device is too old for the kernels (compute capability 7.5 is needed)"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the versions of the NVIDIA driver and its library differ; restart the machine"
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS | CUresult::CUDA_ERROR_LAUNCH_FAILED => {
            "a kernel failed on the device; this is a bug, please report it with the command"
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "another process uses the device exclusively",
        _ => return None,
    })
}

/// Whether the error may not recur at the next start, for example because another process had allocated the memory.
pub(in crate::cuda) fn is_transient(error: &Error) -> bool {
    let text = format!("{error:#}");
    ["OUT_OF_MEMORY", "ALLOC_FAILED", "ALLOCATION_FAILED", "NOT_INITIALIZED"].iter().any(|name| text.contains(name))
}

/// A cuBLAS error with its name and a remedy.
pub(in crate::cuda) fn cublas(error: CublasError) -> Error {
    status(&format!("{:?}", error.0))
}

/// A cuBLASLt error with its name and a remedy; cuBLASLt uses cuBLAS's error codes.
pub(in crate::cuda) fn cublaslt(error: CublasLtError) -> Error {
    status(&format!("{:?}", error.0))
}

/// A cuDNN error with its name and a remedy.
pub(super) fn cudnn(failure: Failure) -> Error {
    let Failure { call, status, name } = &failure;
    let remedy = match status / 1000 {
        1 => "cuDNN failed to initialise; its version must match the NVIDIA driver and CUDA's libraries",
        3 => "not supported by this device or this version of cuDNN",
        4 | 5 => "the convolution failed; the device may not have enough memory (try a smaller --batch-size)",
        _ => "this is a bug, please report it with the command",
    };
    anyhow!("{call}: {name} ({status}): {remedy}; or choose another --conv-algo")
}

/// A library does not support an operation, as opposed to failing to compute it.
#[derive(Debug)]
pub(in crate::cuda) struct Unsupported(pub &'static str);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unsupported {}

fn status(name: &str) -> Error {
    let remedy = match name.trim_start_matches("CUBLAS_STATUS_") {
        "NOT_INITIALIZED" => {
            "cuBLAS failed to initialise; its version must match the NVIDIA driver, and the device must have \
             free memory"
        }
        "ALLOC_FAILED" => "the device does not have enough memory for cuBLAS; try a smaller --batch-size",
        "ARCH_MISMATCH" | "NOT_SUPPORTED" => {
            "not supported by this device or this cuBLAS; try --precision fp32, or a newer cuBLAS (CNN_CUDA_CUBLAS)"
        }
        "EXECUTION_FAILED" | "INTERNAL_ERROR" | "MAPPING_ERROR" => {
            "the product failed on the device; check what else uses it (nvidia-smi) and whether the driver logs errors"
        }
        _ => "this is a bug, please report it with the command",
    };
    anyhow!("{name}: {remedy}")
}

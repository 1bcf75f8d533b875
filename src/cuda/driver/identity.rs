//! What measured times depend on besides the operator.

use anyhow::Result;
use cudarc::driver::CudaContext;

use super::probe::driver_version;
use super::{blas, blas_lt, error, modules};

/// What times measured on a device depend on besides the operator: device, driver, cuBLAS with cuBLASLt, and kernels.
pub(in crate::cuda) fn identity(context: &CudaContext) -> Result<String> {
    let name = context.name().map_err(error::driver)?;
    let ((major, minor), driver) = (context.compute_capability().map_err(error::driver)?, driver_version()?);
    let (kernels, cublas) = (modules::fingerprint(), blas::version()?);
    let lt = blas_lt::version().unwrap_or(0);
    Ok(format!(
        "{name}, {major}.{minor}, driver {}.{}, cuBLAS {cublas}, {lt}, kernels {kernels:016x}",
        driver.0, driver.1
    ))
}

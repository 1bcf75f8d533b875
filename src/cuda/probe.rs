//! What CUDA devices there are, and whether driver and device are new enough.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::{CudaContext, result, sys};

use super::error;

/// The oldest driver that knows all calls made here.
const OLDEST_DRIVER: (i32, i32) = (12, 0);

/// The oldest device that the kernels are compiled for.
const OLDEST_DEVICE: (i32, i32) = (7, 5);

/// Names of the CUDA devices of this machine, in the driver's order.
///
/// # Errors
/// Where there is no driver, it does not start or is too old, or it has no device; the message says which.
pub fn devices() -> Result<Vec<String>> {
    check_driver()?;
    let count = result::device::get_count().map_err(error::driver).context("counting the devices")?;
    ensure!(count > 0, "the NVIDIA driver is there, but it has no device");
    (0..count)
        .map(|ordinal| {
            let device = result::device::get(ordinal).map_err(error::driver)?;
            result::device::get_name(device).map_err(error::driver)
        })
        .collect()
}

/// An error where there is no driver, or it does not start, or it is too old.
pub(super) fn check_driver() -> Result<()> {
    // cudarc panics where the library is missing, so ask first.
    // SAFETY: it only tries to open the library.
    if !unsafe { sys::is_culib_present() } {
        bail!("this machine has no NVIDIA driver (libcuda.so.1 was not found)");
    }
    let (major, minor) = driver_version()?;
    ensure!(
        (major, minor) >= OLDEST_DRIVER,
        "the NVIDIA driver supports CUDA {major}.{minor}, but {}.{} is needed; update the driver",
        OLDEST_DRIVER.0,
        OLDEST_DRIVER.1
    );
    result::init().map_err(error::driver).context("the NVIDIA driver does not start")
}

/// The CUDA version that the driver supports. The driver must be there.
pub(super) fn driver_version() -> Result<(i32, i32)> {
    let mut version = 0;
    // SAFETY: the call may be made before the driver is initialised, and writes one integer.
    let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    status.result().map_err(error::driver).context("asking the NVIDIA driver for its version")?;
    Ok((version / 1000, version % 1000 / 10))
}

/// An error where the device is older than the kernels.
pub(super) fn check_device(context: &Arc<CudaContext>) -> Result<()> {
    let (major, minor) = context.compute_capability().map_err(error::driver)?;
    let name = context.name().map_err(error::driver)?;
    ensure!(
        (major, minor) >= OLDEST_DEVICE,
        "{name} has compute capability {major}.{minor}, but {}.{} is needed",
        OLDEST_DEVICE.0,
        OLDEST_DEVICE.1
    );
    Ok(())
}

/// What times measured on a device depend on besides the operator: device, driver, cuBLAS and kernels.
pub(super) fn identity(context: &CudaContext, cublas: i32) -> Result<String> {
    let name = context.name().map_err(error::driver)?;
    let ((major, minor), driver) = (context.compute_capability().map_err(error::driver)?, driver_version()?);
    let kernels = super::kernels::fingerprint();
    Ok(format!("{name}, {major}.{minor}, driver {}.{}, cuBLAS {cublas}, kernels {kernels:016x}", driver.0, driver.1))
}

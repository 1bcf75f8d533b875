//! What CUDA devices there are, and whether driver and device are new enough.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::{CudaContext, result, sys};

use super::error;
use crate::ops::LimitSizes;

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
pub(in crate::cuda) fn check_driver() -> Result<()> {
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
pub(in crate::cuda) fn driver_version() -> Result<(i32, i32)> {
    let mut version = 0;
    // SAFETY: the call may be made before the driver is initialised, and writes one integer.
    let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    status.result().map_err(error::driver).context("asking the NVIDIA driver for its version")?;
    Ok((version / 1000, version % 1000 / 10))
}

/// An error where the device is older than the kernels.
pub(in crate::cuda) fn check_device(context: &Arc<CudaContext>) -> Result<()> {
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

/// A product of a few tiles for every multiprocessor, and vectors of eight times the second-level cache, both of which fit
/// what memory is free.
pub(in crate::cuda) fn limit_sizes(context: &CudaContext) -> Result<LimitSizes> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE as CACHE, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
    };
    let attribute = |which| -> Result<usize> {
        let value = context.attribute(which).map_err(error::driver).context("asking what the device has")?;
        Ok(usize::try_from(value).unwrap_or(0).max(1))
    };
    // Of the two vectors and the three matrices, each takes an eighth of the free memory at most.
    let (free, _) = context.mem_get_info().map_err(error::driver)?;
    let (most, wanted) = (free / 32, 64 * attribute(MULTIPROCESSORS)?.min(128));
    let side = wanted.min(most.isqrt()).max(64);
    Ok(LimitSizes {
        product_side: 1 << side.ilog2(),
        vector_len: (2 * attribute(CACHE)?).clamp(1 << 16, most.max(1 << 16)).next_multiple_of(64),
    })
}

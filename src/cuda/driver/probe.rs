//! Lists the CUDA devices, and checks that driver and device are recent enough.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::{CudaContext, result, sys};

use super::error;
use super::sources::{BFLOAT16, DEPENDENT_LAUNCH};
use crate::ops::{LimitSizes, Precision};

/// The oldest supported driver, by the CUDA version it supports.
const OLDEST_DRIVER: (i32, i32) = (12, 0);

/// The lowest compute capability that the kernels are compiled for.
const OLDEST_DEVICE: (i32, i32) = (7, 5);

/// Names of the CUDA devices of this machine, in the driver's order.
///
/// # Errors
/// If the driver is missing, too old or fails to initialise, or finds no device; the message says which.
pub fn devices() -> Result<Vec<String>> {
    check_driver()?;
    let count = result::device::get_count().map_err(error::driver).context("counting the devices")?;
    ensure!(count > 0, "the NVIDIA driver is installed, but it finds no device");
    (0..count)
        .map(|ordinal| {
            let device = result::device::get(ordinal).map_err(error::driver)?;
            result::device::get_name(device).map_err(error::driver)
        })
        .collect()
}

/// Checks that the driver is installed, recent enough, and initialises.
pub(in crate::cuda) fn check_driver() -> Result<()> {
    // cudarc panics if the library is missing, so check for it first.
    // SAFETY: the call only tries to open the library.
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
    result::init().map_err(error::driver).context("the NVIDIA driver failed to initialise")
}

/// The CUDA version that the driver supports, major and minor. The driver must be installed.
pub(in crate::cuda) fn driver_version() -> Result<(i32, i32)> {
    let mut version = 0;
    // SAFETY: the call may be made before the driver is initialised, and writes one integer.
    let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    status.result().map_err(error::driver).context("querying the version of the NVIDIA driver")?;
    Ok((version / 1000, version % 1000 / 10))
}

/// Checks that the device's compute capability is high enough for the kernels.
pub(in crate::cuda) fn check_device(context: &Arc<CudaContext>, precision: Precision) -> Result<()> {
    let (major, minor) = context.compute_capability().map_err(error::driver)?;
    let name = context.name().map_err(error::driver)?;
    ensure!(
        (major, minor) >= OLDEST_DEVICE,
        "{name} has compute capability {major}.{minor}, but {}.{} is needed",
        OLDEST_DEVICE.0,
        OLDEST_DEVICE.1
    );
    ensure!(
        precision != Precision::Bf16 || capability(context)? >= BFLOAT16,
        "{name} has compute capability {major}.{minor}, but bf16 needs {}.{}; use --precision fp16",
        BFLOAT16 / 10,
        BFLOAT16 % 10
    );
    Ok(())
}

/// The device's compute capability, as 10·major + minor.
pub(in crate::cuda) fn capability(context: &CudaContext) -> Result<u32> {
    let (major, minor) = context.compute_capability().map_err(error::driver)?;
    Ok(u32::try_from(10 * major + minor)?)
}

/// Whether device and driver have programmatic dependent launch, by the device's compute capability. Drivers before CUDA
/// 12.3 cannot capture it in a graph.
pub(super) fn has_dependent_launch(capability: u32) -> Result<bool> {
    Ok(capability >= DEPENDENT_LAUNCH && driver_version()? >= (12, 3))
}

/// Bytes of dynamic shared memory that every kernel may use on every device; more must be requested.
pub(super) const USUAL_SHARED_LIMIT: u32 = 48 * 1024;

/// Most bytes of shared memory that a block may request.
pub(in crate::cuda) fn shared_limit(context: &CudaContext) -> u32 {
    use sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as LIMIT;
    let limit = context.attribute(LIMIT).ok().and_then(|limit| u32::try_from(limit).ok());
    limit.unwrap_or(0).max(USUAL_SHARED_LIMIT)
}

/// Sizes that measure the device's limits: a matrix product with a few tiles per multiprocessor, and fp32 vectors of
/// eight times the L2 cache; both are reduced to fit the free memory.
pub(in crate::cuda) fn limit_sizes(context: &CudaContext) -> Result<LimitSizes> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE as CACHE, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
    };
    let attribute = |which| -> Result<usize> {
        let value = context.attribute(which).map_err(error::driver).context("querying the device's attributes")?;
        Ok(usize::try_from(value).unwrap_or(0).max(1))
    };
    // Each of the two vectors and the three matrices takes at most an eighth of the free memory.
    let (free, _) = context.mem_get_info().map_err(error::driver)?;
    let (max_len, wanted) = (free / 32, 64 * attribute(MULTIPROCESSORS)?.min(128));
    let side = wanted.min(max_len.isqrt()).max(64);
    Ok(LimitSizes {
        product_side: 1 << side.ilog2(),
        vector_len: (2 * attribute(CACHE)?).clamp(1 << 16, max_len.max(1 << 16)).next_multiple_of(64),
    })
}

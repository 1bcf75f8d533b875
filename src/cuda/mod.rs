//! The CUDA side: whether a usable device is there.

use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::{result, sys};

/// Names of the CUDA devices of this machine, in the driver's order.
///
/// # Errors
/// Where there is no driver, it does not start, or it has no device; the message says which.
pub fn devices() -> Result<Vec<String>> {
    // cudarc panics where the library is missing, so ask first.
    // SAFETY: it only tries to open the library.
    if !unsafe { sys::is_culib_present() } {
        bail!("this machine has no NVIDIA driver (libcuda.so.1 was not found)");
    }
    result::init().context("the NVIDIA driver does not start")?;
    let count = result::device::get_count().context("the NVIDIA driver does not count its devices")?;
    ensure!(count > 0, "the NVIDIA driver is there, but it has no device");
    (0..count)
        .map(|ordinal| {
            let device = result::device::get(ordinal)?;
            Ok(result::device::get_name(device)?)
        })
        .collect()
}

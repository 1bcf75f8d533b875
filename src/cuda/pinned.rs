//! Small buffers that cross often, with page-locked twins on the host.

use std::sync::Arc;

use anyhow::{Result, ensure};
use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, sys};

use super::error;
use super::memory::Buffer;

/// A buffer on the device and its twin.
pub(super) struct Pinned {
    pub device: Buffer,
    host: PinnedHostSlice<u8>,
}

impl Pinned {
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        let device = Buffer::zeroed(stream, bytes).map_err(error::driver)?;
        // SAFETY: `write` fills what it sends, `read` and `arrived` wait for what they return, and it is freed when no
        // copy is under way. Not write-combined: it is read too.
        let host =
            unsafe { stream.context().alloc_pinned_with_flags::<u8>(bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE) };
        Ok(Self { device, host: host.map_err(error::driver)? })
    }

    /// Sends `bytes` to the beginning of the device's buffer; an earlier copy is waited for, not this one.
    pub fn write(&mut self, stream: &Arc<CudaStream>, bytes: &[u8]) -> Result<()> {
        // With event tracking off, cudarc does not know when the host's memory is free again.
        stream.synchronize().map_err(error::driver)?;
        let host = self.host.as_mut_slice().map_err(error::driver)?;
        ensure!(bytes.len() <= host.len(), "{} bytes for a buffer of {}", bytes.len(), host.len());
        host[..bytes.len()].copy_from_slice(bytes);
        let mut view = self.device.slice.slice_mut(..host.len());
        stream.memcpy_htod(&self.host, &mut view).map_err(error::driver)
    }

    /// Asks for the device's bytes without waiting; `arrived` has them later.
    pub fn request(&mut self, stream: &Arc<CudaStream>) -> Result<CudaEvent> {
        stream.memcpy_dtoh(&self.device.slice, &mut self.host).map_err(error::driver)?;
        stream.record_event(None).map_err(error::driver)
    }

    /// What was requested, where its event has come to pass.
    pub fn arrived(&self, event: &CudaEvent) -> Result<Option<Vec<u8>>> {
        if !event.try_is_complete().map_err(error::driver)? {
            return Ok(None);
        }
        Ok(Some(self.host.as_slice().map_err(error::driver)?.to_vec()))
    }

    /// The device's bytes, once it is there.
    pub fn read(&mut self, stream: &Arc<CudaStream>) -> Result<Vec<u8>> {
        stream.memcpy_dtoh(&self.device.slice, &mut self.host).map_err(error::driver)?;
        stream.synchronize().map_err(error::driver)?;
        Ok(self.host.as_slice().map_err(error::driver)?.to_vec())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A copy may still read or write the host's memory. What fails here has failed before, and was told.
        let _ = self.host.context().synchronize();
    }
}

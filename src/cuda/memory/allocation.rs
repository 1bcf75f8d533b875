//! One allocation of device memory, and copies to and from it.

use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result};

use crate::cuda::driver::error;

/// A range of device memory. Work on it is ordered by the stream it was allocated on, unless a method takes another
/// stream.
pub(in crate::cuda) struct Allocation {
    slice: CudaSlice<u8>,
    address: u64,
}

impl Allocation {
    /// Allocates `bytes` bytes with undefined contents; at least one, so that there is an address.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        // SAFETY: nothing is read before it is written: `zeroed` clears state, and steps write activations before
        // reading them.
        let slice = unsafe { stream.alloc::<u8>(bytes.max(1)) }.map_err(error::driver)?;
        let address = slice.device_ptr(stream).0;
        Ok(Self { slice, address })
    }

    pub fn zeroed(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        let mut allocation = Self::new(stream, bytes)?;
        stream.memset_zeros(&mut allocation.slice).map_err(error::driver)?;
        Ok(allocation)
    }

    pub fn len(&self) -> usize {
        self.slice.len()
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    fn at(&self, offset: usize, len: usize) -> Result<u64> {
        offset.checked_add(len).filter(|&end| end <= self.len()).context("a copy exceeds its buffer")?;
        Ok(self.address + offset as u64)
    }

    /// Copies host bytes to `offset`; the copy is complete when this returns.
    pub fn upload(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let stream = self.slice.stream();
        // SAFETY: `bytes` is borrowed until the copy is complete.
        unsafe { self.receive(stream, offset, bytes) }?;
        // The driver may still read pageable memory after the call, and the caller may free `bytes` when this returns.
        stream.synchronize().map_err(error::driver)
    }

    /// Copies `len` bytes from `offset` to the host; waits for the device.
    pub fn download(&self, offset: usize, len: usize) -> Result<Vec<u8>> {
        let (stream, mut bytes) = (self.slice.stream(), vec![0; len]);
        // SAFETY: `bytes` is not used until the copy is complete.
        unsafe { self.send(stream, offset, &mut bytes) }?;
        stream.synchronize().map_err(error::driver)?;
        Ok(bytes)
    }

    /// Copies host bytes to `offset` on `stream`, without waiting.
    ///
    /// # Safety
    /// `bytes` must stay valid and unchanged until the stream has completed the copy.
    pub unsafe fn receive(&self, stream: &CudaStream, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.at(offset, bytes.len())?;
        // SAFETY: the range was checked; the caller guarantees that `bytes` stays valid.
        unsafe { result::memcpy_htod_async(to, bytes, stream.cu_stream()) }.map_err(error::driver)
    }

    /// Fills `bytes` from `offset` on `stream`, without waiting.
    ///
    /// # Safety
    /// `bytes` must stay valid, and nothing may use it, until the stream has completed the copy.
    pub unsafe fn send(&self, stream: &CudaStream, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.at(offset, bytes.len())?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(bytes, from, stream.cu_stream()) }.map_err(error::driver)
    }
}

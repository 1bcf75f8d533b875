//! Bytes on the device.

use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result};

use crate::cuda::driver::error;

/// A piece of the device's memory. All work on it is ordered by the stream that it was made on, unless said otherwise.
pub(in crate::cuda) struct Allocation {
    slice: CudaSlice<u8>,
    address: u64,
}

impl Allocation {
    /// `bytes` of memory with arbitrary contents; at least one, so that there is an address.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        // SAFETY: whoever reads has written before: state is zeroed by `zeroed`, activations are written in order.
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
        offset.checked_add(len).filter(|&end| end <= self.len()).context("a copy past its buffer")?;
        Ok(self.address + offset as u64)
    }

    /// Copies host bytes to `offset`; they are there when it returns.
    pub fn upload(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let stream = self.slice.stream();
        // SAFETY: the bytes stay until the copy is done.
        unsafe { self.receive(stream, offset, bytes) }?;
        // The bytes may go away when this returns, and a driver may read pageable memory later than that.
        stream.synchronize().map_err(error::driver)
    }

    /// A copy of the bytes from `offset`, once the device is there.
    pub fn download(&self, offset: usize, len: usize) -> Result<Vec<u8>> {
        let (stream, mut bytes) = (self.slice.stream(), vec![0; len]);
        // SAFETY: the bytes are used when the copy is done.
        unsafe { self.send(stream, offset, &mut bytes) }?;
        stream.synchronize().map_err(error::driver)?;
        Ok(bytes)
    }

    /// Copies host bytes to `offset`, without waiting for it.
    ///
    /// # Safety
    /// The bytes must stay as they are until the stream has come so far.
    pub unsafe fn receive(&self, stream: &CudaStream, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.at(offset, bytes.len())?;
        // SAFETY: the range was checked; the caller answers for the bytes.
        unsafe { result::memcpy_htod_async(to, bytes, stream.cu_stream()) }.map_err(error::driver)
    }

    /// Copies as many bytes from `offset` to the host, without waiting for it.
    ///
    /// # Safety
    /// Nothing may use `bytes` until the stream has come so far.
    pub unsafe fn send(&self, stream: &CudaStream, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.at(offset, bytes.len())?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(bytes, from, stream.cu_stream()) }.map_err(error::driver)
    }
}

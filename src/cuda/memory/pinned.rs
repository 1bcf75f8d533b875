//! Page-locked memory of the host, which copies read and write while the host goes on.

use std::sync::Arc;

use anyhow::{Result, ensure};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, PinnedHostSlice, sys};

use super::allocation::Allocation;
use crate::cuda::driver::{Turn, error};

/// Page-locked memory and its last copy. cudarc keeps an event of its own for that, but records it only while it tracks
/// events, which is off; so every wait here is for this one.
pub(in crate::cuda) struct PageLocked {
    memory: PinnedHostSlice<u8>,
    copied: CudaEvent,
    /// Holds while the memory is given back; the last field.
    _turn: Option<Turn>,
}

impl PageLocked {
    /// At least one byte, with arbitrary contents.
    pub fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        let _turn = Turn::take();
        // SAFETY: bytes have no invalid values. Not write-combined: it is read too.
        let memory = unsafe { context.alloc_pinned_with_flags::<u8>(bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE) };
        let copied = context.new_event(None).map_err(error::driver)?;
        Ok(Self { memory: memory.map_err(error::driver)?, copied, _turn: None })
    }

    /// Overwrites the beginning, once the last copy is done.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<()> {
        self.copied.synchronize().map_err(error::driver)?;
        let memory = self.memory.as_mut_slice().map_err(error::driver)?;
        ensure!(bytes.len() <= memory.len(), "{} bytes for a buffer of {}", bytes.len(), memory.len());
        memory[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// The bytes, once the last copy is done.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        self.copied.synchronize().map_err(error::driver)?;
        Ok(self.memory.as_slice().map_err(error::driver)?.to_vec())
    }

    /// Whether the last copy is done.
    pub fn is_copied(&self) -> Result<bool> {
        self.copied.try_is_complete().map_err(error::driver)
    }

    /// Copies all of it to `offset` of device memory on `stream`, without waiting. Returns the event of its end.
    pub fn send(&self, stream: &CudaStream, allocation: &Allocation, offset: usize) -> Result<&CudaEvent> {
        let bytes = self.memory.as_slice().map_err(error::driver)?;
        // SAFETY: whoever fills, reads or frees the memory waits for `copied` first.
        let sent = unsafe { allocation.receive(stream, offset, bytes) };
        self.copied.record(stream).map_err(error::driver)?;
        sent.map(|()| &self.copied)
    }

    /// Copies device memory to it on `stream`, without waiting.
    pub fn receive(&mut self, stream: &CudaStream, allocation: &Allocation) -> Result<()> {
        self.copied.synchronize().map_err(error::driver)?;
        let bytes = self.memory.as_mut_slice().map_err(error::driver)?;
        // SAFETY: as above.
        let received = unsafe { allocation.send(stream, 0, bytes) };
        self.copied.record(stream).map_err(error::driver)?;
        received
    }
}

impl Drop for PageLocked {
    /// A copy may still read or write the memory. What fails here has failed before, and was reported.
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
        self._turn = Some(Turn::take());
    }
}

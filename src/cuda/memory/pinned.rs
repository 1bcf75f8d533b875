//! Page-locked (pinned) host memory, for copies that run while the host continues.

use std::sync::Arc;

use anyhow::{Result, ensure};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, PinnedHostSlice, sys};

use super::allocation::Allocation;
use crate::cuda::driver::{Turn, error};

/// Page-locked memory and an event for its last copy. cudarc records its own event only if event tracking is on, which
/// it is not, so every wait here is for `copied`.
pub(in crate::cuda) struct PageLocked {
    memory: PinnedHostSlice<u8>,
    copied: CudaEvent,
    /// Taken by `drop` and held until the memory is freed, so it must be the last field.
    _turn: Option<Turn>,
}

impl PageLocked {
    /// Allocates `bytes` bytes, at least one, with undefined contents.
    pub fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        let _turn = Turn::take();
        // SAFETY: bytes have no invalid values. The memory is not write-combined because the host also reads it.
        let memory = unsafe { context.alloc_pinned_with_flags::<u8>(bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE) };
        let copied = context.new_event(None).map_err(error::driver)?;
        Ok(Self { memory: memory.map_err(error::driver)?, copied, _turn: None })
    }

    /// Overwrites the beginning of the memory; waits for the last copy.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<()> {
        self.copied.synchronize().map_err(error::driver)?;
        let memory = self.memory.as_mut_slice().map_err(error::driver)?;
        ensure!(bytes.len() <= memory.len(), "{} bytes do not fit in a buffer of {}", bytes.len(), memory.len());
        memory[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// The contents; waits for the last copy.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        self.copied.synchronize().map_err(error::driver)?;
        Ok(self.memory.as_slice().map_err(error::driver)?.to_vec())
    }

    /// Whether the last copy has finished.
    pub fn is_copied(&self) -> Result<bool> {
        self.copied.try_is_complete().map_err(error::driver)
    }

    /// Copies all of the memory to `offset` of `allocation` on `stream`, without waiting. Returns the event that marks
    /// the end of the copy.
    pub fn send(&self, stream: &CudaStream, allocation: &Allocation, offset: usize) -> Result<&CudaEvent> {
        let bytes = self.memory.as_slice().map_err(error::driver)?;
        // SAFETY: every method that writes, reads or frees the memory waits for `copied` first.
        let sent = unsafe { allocation.receive(stream, offset, bytes) };
        self.copied.record(stream).map_err(error::driver)?;
        sent.map(|()| &self.copied)
    }

    /// Fills the memory from `allocation` on `stream`, without waiting.
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
    /// A copy may still read or write the memory. An error here has occurred before and was reported then.
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
        self._turn = Some(Turn::take());
    }
}

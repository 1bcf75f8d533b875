//! The device's memory: one allocation for each buffer, by name, and the page-locked memory through which the host writes it.

mod allocation;
mod feed;
mod needs;
mod pinned;

pub(super) use allocation::Allocation;
pub(super) use feed::{Feed, SLOTS};
pub(super) use needs::{Needs, columns_bytes};

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaStream;

use super::driver::error;
use super::program::{Address, Buffer, place};
use super::scratch::{MAX_COLUMN_SUMS, MAX_COLUMNS, MAX_PARTS, TILE};
use crate::ops::{Precision, Region, Span};
use pinned::PageLocked;

/// All buffers. Launches name them; whenever one moves, the generation changes, and what was resolved before must be resolved
/// again.
pub(super) struct Memory {
    stream: Arc<CudaStream>,
    precision: Precision,
    allocations: [Option<Allocation>; Buffer::COUNT],
    /// Of small buffers that cross often, the host's side.
    twins: [Option<PageLocked>; Buffer::COUNT],
    generation: u64,
}

impl Memory {
    /// With the scratch of split products alone.
    pub fn new(stream: &Arc<CudaStream>, precision: Precision) -> Result<Self> {
        let (allocations, twins) = ([const { None }; Buffer::COUNT], [const { None }; Buffer::COUNT]);
        let mut memory = Self { stream: Arc::clone(stream), precision, allocations, twins, generation: 0 };
        memory.allocate(Buffer::ProductPartials, MAX_PARTS * TILE * 4)?;
        memory.allocate(Buffer::ColumnSums, MAX_COLUMN_SUMS * 4)?;
        memory.allocate_zeroed(Buffer::ProductCounters, (MAX_PARTS + MAX_COLUMNS) * 4)?;
        Ok(memory)
    }

    /// Frees what [`Memory::allocate_plan`] allocated.
    pub fn clear(&mut self) {
        self.allocations[Buffer::OF_A_PLAN].fill_with(|| None);
        self.generation += 1;
    }

    /// Allocates all regions and the scratch of the operators.
    ///
    /// # Errors
    /// Where the device has too little memory: what is needed, what is free, and which batch would fit.
    pub fn allocate_plan(&mut self, needs: &Needs) -> Result<()> {
        let (free, total) = self.stream.context().mem_get_info().map_err(error::driver)?;
        ensure!(needs.total() <= free, needs.too_much(free, total));
        for (buffer, bytes, zeroed) in needs.buffers {
            let allocate = if zeroed { Self::allocate_zeroed } else { Self::allocate };
            allocate(self, buffer, bytes).with_context(|| needs.too_much(free, total))?;
        }
        Ok(())
    }

    /// Makes or replaces a buffer, with arbitrary contents.
    pub fn allocate(&mut self, buffer: Buffer, bytes: usize) -> Result<()> {
        self.put(buffer, Allocation::new(&self.stream, bytes)?);
        Ok(())
    }

    pub fn allocate_zeroed(&mut self, buffer: Buffer, bytes: usize) -> Result<()> {
        self.put(buffer, Allocation::zeroed(&self.stream, bytes)?);
        Ok(())
    }

    /// Makes or replaces a buffer of these contents.
    pub fn allocate_with(&mut self, buffer: Buffer, bytes: &[u8]) -> Result<()> {
        self.allocate(buffer, bytes.len())?;
        self.get(buffer)?.upload(0, bytes)
    }

    /// Makes or replaces a zeroed buffer that has a page-locked twin, for [`Memory::send`] and [`Memory::request`].
    pub fn allocate_pinned(&mut self, buffer: Buffer, bytes: usize) -> Result<()> {
        self.allocate_zeroed(buffer, bytes)?;
        let bytes = self.get(buffer)?.len();
        self.twins[buffer as usize] = Some(PageLocked::new(self.stream.context(), bytes)?);
        Ok(())
    }

    fn put(&mut self, buffer: Buffer, allocation: Allocation) {
        self.allocations[buffer as usize] = Some(allocation);
        self.generation += 1;
    }

    /// Changes whenever an address does.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn get(&self, buffer: Buffer) -> Result<&Allocation> {
        self.allocations[buffer as usize].as_ref().with_context(|| format!("{buffer:?} was not allocated"))
    }

    /// The device address of a place by name.
    pub fn resolve(&self, address: Address) -> Result<u64> {
        let Some((buffer, offset)) = address.parts() else { return Ok(0) };
        let allocation = self.allocations.get(buffer).and_then(Option::as_ref);
        let allocation =
            allocation.with_context(|| format!("a launch names memory that was not allocated (buffer {buffer})"))?;
        Ok(allocation.address() + offset)
    }

    /// The stream, and both sides of a pinned buffer.
    fn pinned(&mut self, buffer: Buffer) -> Result<(&CudaStream, &Allocation, &mut PageLocked)> {
        let (device, host) = (self.allocations[buffer as usize].as_ref(), self.twins[buffer as usize].as_mut());
        let (device, host) = device.zip(host).with_context(|| format!("{buffer:?} was not allocated"))?;
        Ok((&self.stream, device, host))
    }

    /// Sends `bytes` to the beginning of a pinned buffer; an earlier copy is waited for, not this one.
    pub fn send(&mut self, buffer: Buffer, bytes: &[u8]) -> Result<()> {
        let (stream, device, host) = self.pinned(buffer)?;
        host.fill(bytes)?;
        host.send(stream, device, 0).map(|_| ())
    }

    /// Asks for the bytes of a pinned buffer without waiting; [`Memory::arrived`] has them later.
    pub fn request(&mut self, buffer: Buffer) -> Result<()> {
        let (stream, device, host) = self.pinned(buffer)?;
        host.receive(stream, device)
    }

    /// What was requested, where it is there.
    pub fn arrived(&mut self, buffer: Buffer) -> Result<Option<Vec<u8>>> {
        let (.., host) = self.pinned(buffer)?;
        if host.is_copied()? { host.bytes().map(Some) } else { Ok(None) }
    }

    /// The bytes of a pinned buffer, once the device is there.
    pub fn receive(&mut self, buffer: Buffer) -> Result<Vec<u8>> {
        self.request(buffer)?;
        self.pinned(buffer)?.2.bytes()
    }

    /// An error where a span is outside of what was allocated.
    pub fn check(&self, span: Span) -> Result<(&Allocation, usize)> {
        let (buffer, size) = place(span.region, self.precision);
        let allocation = self.get(buffer)?;
        ensure!((span.offset + span.len) * size <= allocation.len(), "{span:?} is outside of the allocated memory");
        Ok((allocation, size))
    }

    /// Copies `values` to the beginning of `span`, rounded where its storage is; of parameters also the rounded copy.
    pub fn write(&self, span: Span, values: &[f32]) -> Result<()> {
        ensure!(values.len() <= span.len, "{} values do not fit {span:?}", values.len());
        let (allocation, size) = self.check(span)?;
        let halves = || values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect::<Vec<u8>>();
        allocation.upload(span.offset * size, &if size == 2 { halves() } else { bytes_of_f32(values) })?;
        match span.region {
            Region::Parameters if self.precision == Precision::Fp16 => {
                self.get(Buffer::HalfParameters)?.upload(span.offset * 2, &halves())
            }
            _ => Ok(()),
        }
    }

    /// The values of `span`, once the device is there.
    pub fn read(&self, span: Span) -> Result<Vec<f32>> {
        let (allocation, size) = self.check(span)?;
        let bytes = allocation.download(span.offset * size, span.len * size)?;
        Ok(match (span.region, size) {
            (Region::Indices, _) => words(&bytes).map(|word| u32::from_le_bytes(word) as f32).collect(),
            (_, 2) => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => words(&bytes).map(f32::from_le_bytes).collect(),
        })
    }
}

/// The 32-bit words of some bytes.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.as_chunks::<4>().0.iter().copied()
}

pub(super) fn bytes_of_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn bytes_of_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

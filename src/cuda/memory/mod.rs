//! The device's memory: one allocation per [`Buffer`], and page-locked host memory for buffers that are copied often.

mod allocation;
mod feed;
mod needs;
mod pinned;

pub(super) use allocation::Allocation;
pub(super) use feed::{Feed, SLOTS};
pub(super) use needs::{Requirements, columns_bytes};

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaStream;
use half::{bf16, f16};

use super::driver::error;
use super::program::{Address, Buffer, region_buffer};
use super::scratch::{MAX_COLUMN_COUNTERS, MAX_COLUMN_SUMS, MAX_PART_SUMS, MAX_PARTS};
use crate::ops::{Precision, Region, Span};
use pinned::PageLocked;

/// All buffers. Launches refer to them by [`Address`]; when a buffer moves, the generation changes, and addresses that
/// were resolved before are stale.
pub(super) struct Memory {
    stream: Arc<CudaStream>,
    precision: Precision,
    allocations: [Option<Allocation>; Buffer::COUNT],
    /// The page-locked host side of small buffers that are copied often.
    staging: [Option<PageLocked>; Buffer::COUNT],
    generation: u64,
}

impl Memory {
    /// Allocates only the scratch of split-K products.
    pub fn new(stream: &Arc<CudaStream>, precision: Precision) -> Result<Self> {
        let (allocations, staging) = ([const { None }; Buffer::COUNT], [const { None }; Buffer::COUNT]);
        let mut memory = Self { stream: Arc::clone(stream), precision, allocations, staging, generation: 0 };
        memory.allocate(Buffer::ProductPartials, MAX_PART_SUMS * 4)?;
        memory.allocate(Buffer::ColumnSums, MAX_COLUMN_SUMS * 4)?;
        memory.allocate_zeroed(Buffer::ProductCounters, (MAX_PARTS + MAX_COLUMN_COUNTERS) * 4)?;
        Ok(memory)
    }

    /// Frees the buffers that [`Memory::allocate_plan`] allocated.
    pub fn clear(&mut self) {
        self.allocations[Buffer::PLANNED].fill_with(|| None);
        self.generation += 1;
    }

    /// Allocates all regions and the scratch of the operators.
    ///
    /// # Errors
    /// If the device has too little memory; the message says how much is needed and free, and which batch would fit.
    pub fn allocate_plan(&mut self, requirements: &Requirements) -> Result<()> {
        let (free, total) = self.stream.context().mem_get_info().map_err(error::driver)?;
        ensure!(requirements.total() <= free, requirements.out_of_memory_message(free, total));
        for (buffer, bytes, zeroed) in requirements.buffers {
            let allocate = if zeroed { Self::allocate_zeroed } else { Self::allocate };
            allocate(self, buffer, bytes).with_context(|| requirements.out_of_memory_message(free, total))?;
        }
        Ok(())
    }

    /// Allocates or replaces a buffer; its contents are undefined.
    pub fn allocate(&mut self, buffer: Buffer, bytes: usize) -> Result<()> {
        self.replace(buffer, Allocation::new(&self.stream, bytes)?);
        Ok(())
    }

    pub fn allocate_zeroed(&mut self, buffer: Buffer, bytes: usize) -> Result<()> {
        self.replace(buffer, Allocation::zeroed(&self.stream, bytes)?);
        Ok(())
    }

    /// Allocates or replaces a buffer with these contents.
    pub fn allocate_with(&mut self, buffer: Buffer, bytes: &[u8]) -> Result<()> {
        self.allocate(buffer, bytes.len())?;
        self.get(buffer)?.upload(0, bytes)
    }

    /// Allocates or replaces a zeroed buffer with page-locked host memory, for [`Memory::send`] and
    /// [`Memory::request`].
    pub fn allocate_pinned(&mut self, buffer: Buffer, bytes: usize) -> Result<()> {
        self.allocate_zeroed(buffer, bytes)?;
        let bytes = self.get(buffer)?.len();
        self.staging[buffer as usize] = Some(PageLocked::new(self.stream.context(), bytes)?);
        Ok(())
    }

    fn replace(&mut self, buffer: Buffer, allocation: Allocation) {
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

    /// The device address of a symbolic address.
    pub fn resolve(&self, address: Address) -> Result<u64> {
        let Some((buffer, offset)) = address.parts() else { return Ok(0) };
        let allocation = self.allocations.get(buffer).and_then(Option::as_ref);
        let allocation = allocation
            .with_context(|| format!("a launch refers to a buffer that was not allocated (buffer {buffer})"))?;
        Ok(allocation.address() + offset)
    }

    /// The stream, and the device and host sides of a pinned buffer.
    fn pinned(&mut self, buffer: Buffer) -> Result<(&CudaStream, &Allocation, &mut PageLocked)> {
        let (device, host) = (self.allocations[buffer as usize].as_ref(), self.staging[buffer as usize].as_mut());
        let (device, host) = device.zip(host).with_context(|| format!("{buffer:?} was not allocated"))?;
        Ok((&self.stream, device, host))
    }

    /// Copies `bytes` to the beginning of a pinned buffer. Waits for the previous copy of the buffer, but not for this
    /// one.
    pub fn send(&mut self, buffer: Buffer, bytes: &[u8]) -> Result<()> {
        let (stream, device, host) = self.pinned(buffer)?;
        host.fill(bytes)?;
        host.send(stream, device, 0).map(|_| ())
    }

    /// Starts copying a pinned buffer to the host without waiting; [`Memory::poll`] returns the bytes.
    pub fn request(&mut self, buffer: Buffer) -> Result<()> {
        let (stream, device, host) = self.pinned(buffer)?;
        host.receive(stream, device)
    }

    /// The bytes of the last [`Memory::request`], or `None` if the copy has not finished.
    pub fn poll(&mut self, buffer: Buffer) -> Result<Option<Vec<u8>>> {
        let (.., host) = self.pinned(buffer)?;
        if host.is_copied()? { host.bytes().map(Some) } else { Ok(None) }
    }

    /// The bytes of a pinned buffer; waits for the device.
    pub fn receive(&mut self, buffer: Buffer) -> Result<Vec<u8>> {
        self.request(buffer)?;
        self.pinned(buffer)?.2.bytes()
    }

    /// The allocation of a span and the size of its elements in bytes; an error if the span is outside the allocation.
    pub fn check(&self, span: Span) -> Result<(&Allocation, usize)> {
        let (buffer, size) = region_buffer(span.region, self.precision);
        let allocation = self.get(buffer)?;
        ensure!((span.offset + span.len) * size <= allocation.len(), "{span:?} is outside the allocated memory");
        Ok((allocation, size))
    }

    /// Copies `values` to the beginning of `span`, converted to its storage type. With 16-bit storage,
    /// parameters are also written to their rounded copy.
    pub fn write(&self, span: Span, values: &[f32]) -> Result<()> {
        ensure!(values.len() <= span.len, "{} values do not fit in {span:?}", values.len());
        let (allocation, size) = self.check(span)?;
        let rounded = || values.iter().flat_map(|&value| round(value, self.precision)).collect::<Vec<u8>>();
        allocation.upload(span.offset * size, &if size == 2 { rounded() } else { bytes_of_f32(values) })?;
        match span.region {
            Region::Parameters if self.precision.is_16_bit() => {
                self.get(Buffer::RoundedParameters)?.upload(span.offset * 2, &rounded())
            }
            _ => Ok(()),
        }
    }

    /// The values of `span`; waits for the device.
    pub fn read(&self, span: Span) -> Result<Vec<f32>> {
        let (allocation, size) = self.check(span)?;
        let bytes = allocation.download(span.offset * size, span.len * size)?;
        Ok(match (span.region, size) {
            (Region::Indices, _) => words(&bytes).map(|word| u32::from_le_bytes(word) as f32).collect(),
            (_, 2) => bytes.as_chunks::<2>().0.iter().map(|&bytes| widen(bytes, self.precision)).collect(),
            _ => words(&bytes).map(f32::from_le_bytes).collect(),
        })
    }
}

/// A value in the 16-bit storage of a precision.
fn round(value: f32, precision: Precision) -> [u8; 2] {
    match precision {
        Precision::Bf16 => bf16::from_f32(value).to_le_bytes(),
        _ => f16::from_f32(value).to_le_bytes(),
    }
}

fn widen(bytes: [u8; 2], precision: Precision) -> f32 {
    match precision {
        Precision::Bf16 => bf16::from_le_bytes(bytes).to_f32(),
        _ => f16::from_le_bytes(bytes).to_f32(),
    }
}

/// The bytes as 32-bit words; an incomplete last word is ignored.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.as_chunks::<4>().0.iter().copied()
}

pub(super) fn bytes_of_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn bytes_of_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

//! The device's memory: one allocation for each buffer, by name, and the page-locked memory through which the host writes it.

mod allocation;
mod feed;
mod needs;
mod pinned;
mod sets;
mod state;

pub(super) use allocation::Allocation;
pub(super) use needs::columns_bytes;
pub(super) use sets::Sets;
pub(super) use state::State;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaStream;

use super::driver::error;
use super::program::{Address, Buffer, place};
use super::scratch::{MAX_COLUMN_SUMS, MAX_COLUMNS, MAX_PARTS, TILE};
use crate::ops::{MemorySizes, Precision, Region, Span};
use needs::Needs;

/// All buffers, each with a base address. Launches name buffers; whenever one moves, the generation changes, and what was
/// resolved before must be resolved again.
pub(super) struct Memory {
    stream: Arc<CudaStream>,
    precision: Precision,
    allocations: [Option<Allocation>; Buffer::COUNT],
    bases: [u64; Buffer::COUNT],
    generation: u64,
}

impl Memory {
    /// With the scratch of split products alone.
    pub fn new(stream: &Arc<CudaStream>, precision: Precision) -> Result<Self> {
        let mut memory = Self {
            stream: Arc::clone(stream),
            precision,
            allocations: [const { None }; Buffer::COUNT],
            bases: [0; Buffer::COUNT],
            generation: 0,
        };
        memory.put(Buffer::ProductPartials, Allocation::new(stream, MAX_PARTS * TILE * 4).map_err(error::driver)?);
        memory.put(Buffer::ColumnSums, Allocation::new(stream, MAX_COLUMN_SUMS * 4).map_err(error::driver)?);
        let counters = Allocation::zeroed(stream, (MAX_PARTS + MAX_COLUMNS) * 4).map_err(error::driver)?;
        memory.put(Buffer::ProductCounters, counters);
        Ok(memory)
    }

    /// Frees what [`Memory::allocate`] allocated.
    pub fn clear(&mut self) {
        for buffer in Self::PLANNED {
            self.allocations[buffer as usize] = None;
            self.bases[buffer as usize] = 0;
        }
        self.generation += 1;
    }

    const PLANNED: [Buffer; 11] = [
        Buffer::Arena,
        Buffer::Parameters,
        Buffer::HalfParameters,
        Buffer::Gradients,
        Buffer::Momentum,
        Buffer::Average,
        Buffer::Statistics,
        Buffer::Indices,
        Buffer::Columns,
        Buffer::Partials,
        Buffer::BlockCounters,
    ];

    /// Bytes of all that [`Memory::allocate`] allocates.
    pub fn needed(sizes: &MemorySizes, precision: Precision, workspace: usize) -> usize {
        Needs::new(sizes, precision.real_size(), workspace).total()
    }

    /// Allocates all regions and the scratch of the operators.
    ///
    /// # Errors
    /// Where the device has too little memory: what is needed, what is free, and which batch would fit.
    pub fn allocate(&mut self, sizes: &MemorySizes, workspace: usize) -> Result<()> {
        let (real, half) = (self.precision.real_size(), self.precision == Precision::Fp16);
        let needs = Needs::new(sizes, real, workspace);
        let (free, total) = self.stream.context().mem_get_info().map_err(error::driver)?;
        let too_much = || needs.too_much(sizes.max_batch, free, total);
        ensure!(needs.total() <= free, too_much());
        let (activations, state) = (false, true);
        for (buffer, bytes, zeroed) in [
            (Buffer::Arena, sizes.arena * real, activations),
            (Buffer::Parameters, sizes.parameters * 4, state),
            (Buffer::HalfParameters, if half { sizes.parameters * 2 } else { 0 }, state),
            (Buffer::Gradients, sizes.gradients * 4, state),
            (Buffer::Momentum, sizes.momentum * 4, state),
            (Buffer::Average, sizes.average * 4, state),
            (Buffer::Statistics, sizes.statistics * 4, state),
            (Buffer::Indices, sizes.indices * 4, activations),
            (Buffer::Columns, needs.columns, activations),
            (Buffer::Partials, needs.partials, activations),
            (Buffer::BlockCounters, needs.counters, state),
        ] {
            let make = if zeroed { Allocation::zeroed } else { Allocation::new };
            let made = make(&self.stream, bytes).map_err(|error| error::driver(error).context(too_much()))?;
            self.put(buffer, made);
        }
        Ok(())
    }

    /// Puts an allocation, or another one, where launches find it.
    pub fn put(&mut self, buffer: Buffer, allocation: Allocation) {
        self.bases[buffer as usize] = allocation.address();
        self.allocations[buffer as usize] = Some(allocation);
        self.generation += 1;
    }

    /// Lets launches find memory that is kept elsewhere.
    pub fn name(&mut self, buffer: Buffer, allocation: &Allocation) {
        self.bases[buffer as usize] = allocation.address();
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
        let base = self.bases.get(buffer).copied().unwrap_or(0);
        ensure!(base != 0, "a launch names memory that was not allocated (buffer {buffer})");
        Ok(base + offset)
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
        let floats = || values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let halves = || values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect::<Vec<u8>>();
        allocation.upload(&self.stream, span.offset * size, &if size == 2 { halves() } else { floats() })?;
        match span.region {
            Region::Parameters if self.precision == Precision::Fp16 => {
                self.get(Buffer::HalfParameters)?.upload(&self.stream, span.offset * 2, &halves())
            }
            _ => Ok(()),
        }
    }

    /// The values of `span`, once the device is there.
    pub fn read(&self, span: Span) -> Result<Vec<f32>> {
        let (allocation, size) = self.check(span)?;
        let bytes = allocation.download(&self.stream, span.offset * size, span.len * size)?;
        Ok(match (span.region, size) {
            (Region::Indices, _) => words(&bytes).map(|word| u32::from_le_bytes(word) as f32).collect(),
            (_, 2) => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => words(&bytes).map(f32::from_le_bytes).collect(),
        })
    }
}

/// The 32-bit words of some bytes.
fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.as_chunks::<4>().0.iter().copied()
}

/// The bytes of plain numbers.
fn bytes_of_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

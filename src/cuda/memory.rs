//! The device's buffers: one allocation per region, addressed by spans whose bounds are checked.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, PinnedHostSlice};

use super::algorithm::Site;
pub(super) use super::pinned::Pinned;
use super::together::Left;
use super::{direct, error};
use crate::ops::{MemorySizes, Region, Span};

/// Bytes on the device.
pub(super) struct Buffer {
    pub(super) slice: CudaSlice<u8>,
    address: u64,
}

impl Buffer {
    /// `bytes` of memory with arbitrary contents; at least one, so that there is an address.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: whoever reads has written before: state is zeroed by `zeroed`, activations are written in order.
        let slice = unsafe { stream.alloc::<u8>(bytes.max(1)) }?;
        let address = slice.device_ptr(stream).0;
        Ok(Self { slice, address })
    }

    pub fn zeroed(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
        let mut buffer = Self::new(stream, bytes)?;
        stream.memset_zeros(&mut buffer.slice)?;
        Ok(buffer)
    }

    pub fn len(&self) -> usize {
        self.slice.len()
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    /// Copies host bytes to `offset`.
    pub fn upload(&mut self, stream: &Arc<CudaStream>, offset: usize, bytes: &[u8]) -> Result<()> {
        let len = self.len();
        let end = offset.checked_add(bytes.len()).filter(|&end| end <= len).context("an upload past its buffer")?;
        let mut view = self.slice.slice_mut(offset..end);
        stream.memcpy_htod(bytes, &mut view).map_err(error::driver)?;
        // The bytes may go away when this returns, and a driver may read pageable memory later than that.
        stream.synchronize().map_err(error::driver)
    }

    /// Copies page-locked bytes to `offset` on `stream`, without waiting for it.
    pub fn receive(&mut self, stream: &Arc<CudaStream>, offset: usize, bytes: &PinnedHostSlice<u8>) -> Result<()> {
        let (len, count) = (self.len(), bytes.len());
        let end = offset.checked_add(count).filter(|&end| end <= len).context("an upload past its buffer")?;
        let mut view = self.slice.slice_mut(offset..end);
        stream.memcpy_htod(bytes, &mut view).map_err(error::driver)
    }

    /// A copy of the bytes from `offset`, once the device is there.
    pub fn download(&self, stream: &Arc<CudaStream>, offset: usize, len: usize) -> Result<Vec<u8>> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len()).context("a download past its buffer")?;
        let mut bytes = vec![0; len];
        stream.memcpy_dtoh(&self.slice.slice(offset..end), &mut bytes[..]).map_err(error::driver)?;
        stream.synchronize().map_err(error::driver)?;
        Ok(bytes)
    }
}

/// All regions and the scratch of the operators.
pub(super) struct Memory {
    arena: Buffer,
    parameters: Buffer,
    /// With fp16 storage the rounded copy that products read, in the same order.
    pub half_parameters: Option<Buffer>,
    gradients: Buffer,
    momentum: Buffer,
    average: Buffer,
    statistics: Buffer,
    indices: Buffer,
    /// Where in the indices the signs of a linear layer's output lie, as its forward pass of late left them, with that pass.
    pub signs: HashMap<usize, Site>,
    /// Where in the gradients the bias gradients lie that input gradients of late left to weight gradients.
    pub left: HashMap<usize, Left>,
    /// The columns of a convolution, as many as fit.
    pub columns: Buffer,
    /// Partial sums of reductions, and the counters by which their last blocks know that they are.
    pub partials: Buffer,
    pub arrived: Buffer,
    /// Bytes of an activation.
    pub real_size: usize,
}

impl Memory {
    /// Allocates everything.
    ///
    /// # Errors
    /// Where the device has too little memory: what is needed, what is free, and which batch would fit.
    pub fn new(stream: &Arc<CudaStream>, sizes: &MemorySizes, real_size: usize, workspace: usize) -> Result<Self> {
        let needs = Needs::new(sizes, real_size, workspace);
        let (free, total) = stream.context().mem_get_info().map_err(error::driver)?;
        ensure!(needs.total() <= free, needs.too_much(sizes.max_batch, free, total));
        Self::allocate(stream, sizes, &needs, real_size)
            .map_err(|error| error::driver(error).context(needs.too_much(sizes.max_batch, free, total)))
    }

    /// Bytes of all that [`Memory::new`] allocates.
    pub fn needed(sizes: &MemorySizes, real_size: usize, workspace: usize) -> usize {
        Needs::new(sizes, real_size, workspace).total()
    }

    fn allocate(
        stream: &Arc<CudaStream>,
        sizes: &MemorySizes,
        needs: &Needs,
        real_size: usize,
    ) -> Result<Self, DriverError> {
        let half = (real_size == 2).then(|| Buffer::zeroed(stream, sizes.parameters * 2)).transpose()?;
        Ok(Self {
            arena: Buffer::new(stream, sizes.arena * real_size)?,
            parameters: Buffer::zeroed(stream, sizes.parameters * 4)?,
            half_parameters: half,
            gradients: Buffer::zeroed(stream, sizes.gradients * 4)?,
            momentum: Buffer::zeroed(stream, sizes.momentum * 4)?,
            average: Buffer::zeroed(stream, sizes.average * 4)?,
            statistics: Buffer::zeroed(stream, sizes.statistics * 4)?,
            indices: Buffer::new(stream, sizes.indices * 4)?,
            signs: HashMap::new(),
            left: HashMap::new(),
            columns: Buffer::new(stream, needs.columns)?,
            partials: Buffer::new(stream, needs.partials)?,
            arrived: Buffer::zeroed(stream, needs.arrived)?,
            real_size,
        })
    }

    /// The device address of a span.
    ///
    /// # Errors
    /// Where it is outside of what was allocated.
    pub fn address(&self, span: Span) -> Result<u64> {
        let (buffer, size) = self.region(span.region);
        let end = (span.offset + span.len) * size;
        ensure!(end <= buffer.len(), "{span:?} is outside of the allocated memory");
        Ok(buffer.address() + (span.offset * size) as u64)
    }

    /// The address of a weight as products read it: rounded where the storage is.
    pub fn weight_address(&self, span: Span) -> Result<u64> {
        self.address(span)?;
        match &self.half_parameters {
            Some(buffer) if span.region == Region::Parameters => Ok(buffer.address() + (span.offset * 2) as u64),
            _ => self.address(span),
        }
    }

    pub fn region(&self, region: Region) -> (&Buffer, usize) {
        match region {
            Region::Arena => (&self.arena, self.real_size),
            Region::Parameters => (&self.parameters, 4),
            Region::Gradients => (&self.gradients, 4),
            Region::Momentum => (&self.momentum, 4),
            Region::Average => (&self.average, 4),
            Region::Statistics => (&self.statistics, 4),
            Region::Indices => (&self.indices, 4),
        }
    }

    pub fn region_mut(&mut self, region: Region) -> &mut Buffer {
        match region {
            Region::Arena => &mut self.arena,
            Region::Parameters => &mut self.parameters,
            Region::Gradients => &mut self.gradients,
            Region::Momentum => &mut self.momentum,
            Region::Average => &mut self.average,
            Region::Statistics => &mut self.statistics,
            Region::Indices => &mut self.indices,
        }
    }
}

/// Bytes that a plan takes on the device.
struct Needs {
    /// Parameters, gradients, optimiser state, statistics.
    state: usize,
    partials: usize,
    arrived: usize,
    columns: usize,
    /// Activations, their gradients and indices.
    activations: usize,
    /// Of those, what one sample takes at most, in training or evaluation.
    sample: usize,
    /// Columns of one sample, and what those of a batch may take.
    sample_columns: usize,
    workspace: usize,
}

/// Partial sums of every channel, at most; there may be two kinds of them.
pub(super) const MAX_PARTIALS: usize = 256;

/// Bytes of the columns of convolutions.
pub(super) fn columns_bytes(sizes: &MemorySizes, real_size: usize, workspace: usize) -> usize {
    (sizes.columns * real_size).min(workspace.max(sizes.sample_columns * real_size))
}

impl Needs {
    fn new(sizes: &MemorySizes, real_size: usize, workspace: usize) -> Self {
        let sample_columns = sizes.sample_columns * real_size;
        let half = if real_size == 2 { 2 * sizes.parameters } else { 0 };
        Self {
            state: 4 * (sizes.parameters + sizes.gradients + sizes.momentum + sizes.average + sizes.statistics) + half,
            partials: 4 * (2 * MAX_PARTIALS * sizes.max_channels).max(direct::MOST_PARTIALS),
            arrived: 4 * sizes.max_channels.max(1),
            columns: columns_bytes(sizes, real_size, workspace),
            activations: sizes.arena * real_size + sizes.indices * 4,
            sample: sizes.sample_arena * real_size + sizes.sample_indices * 4,
            sample_columns,
            workspace,
        }
    }

    fn total(&self) -> usize {
        self.state + self.partials + self.arrived + self.columns + self.activations
    }

    /// What smaller batches, of training and evaluation, would take.
    fn total_for(&self, smaller: usize) -> usize {
        let columns = self.sample_columns.saturating_mul(smaller).min(self.workspace.max(self.sample_columns));
        self.state + self.partials + self.arrived + columns + self.sample * smaller
    }

    fn too_much(&self, batch: usize, free: usize, total: usize) -> String {
        let megabytes = |bytes: usize| bytes.div_ceil(1_000_000);
        // The driver rounds every allocation up: what fits to the byte may not fit.
        let usable = free / 20 * 19;
        let (mut fitting, mut beyond) = (0, batch.max(1));
        while fitting + 1 < beyond {
            let middle = fitting.midpoint(beyond);
            if self.total_for(middle) <= usable { fitting = middle } else { beyond = middle }
        }
        let advice = match fitting {
            0 => "no batch fits; try --workspace-mb with a smaller number, or another device".to_string(),
            fitting => format!("a batch of up to {fitting} would fit: see --batch-size and --eval-batch-size"),
        };
        format!(
            "not enough memory on the device: the plan needs {} MB for a batch of {batch}, {} of {} MB are free; {advice}",
            megabytes(self.total()),
            megabytes(free),
            megabytes(total)
        )
    }
}

/// The bytes of plain numbers.
pub(super) fn bytes_of_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Numbers from their bytes.
pub(super) fn f32_from_bytes(bytes: &[u8]) -> Result<Vec<f32>> {
    ensure!(bytes.len().is_multiple_of(4), "{} bytes are no fp32 numbers", bytes.len());
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

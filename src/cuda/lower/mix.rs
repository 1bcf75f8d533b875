//! Mixes the images of a batch.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::cuda::program::Buffer;
use crate::ops::{MixImages, RunOn};

/// Values of an image per block, as for gathering.
const VALUES_PER_BLOCK: usize = 8192;

impl RunOn<Lowering<'_>> for MixImages {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { shape, input, output } = *self;
        let (size, row) = (shape.len(), shape.width * shape.channels);
        let params = params!(
            lowering.target, 48 bytes,
            [input, output, mixes = Buffer::Mixes, block_counters = Buffer::BlockCounters],
            size: u32, row: u32, channels: u32 = shape.channels,
        );
        let (kernel, _) = lowering.variant("mix_images", &[size], &[input, output]);
        lowering.launch(kernel, [output.len / size, size.div_ceil(VALUES_PER_BLOCK).min(1 << 15)], params)
    }
}

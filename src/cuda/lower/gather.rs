//! Gathers batches from the images on the device: normalises them and, in training, applies random augmentation.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::cuda::program::Buffer;
use crate::ops::{Augmentation, Gather, RunOn};
use crate::shape::Shape;

/// Values of an image per block: enough to amortise the block's random draws.
const VALUES_PER_BLOCK: usize = 4096;

impl RunOn<Lowering<'_>> for Gather {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { subset, shape, augmentation, output } = *self;
        let Shape { height, width, channels } = shape;
        let [images, labels, order, position, mean, std] = Buffer::of_set(subset);
        let (batch, batch_labels, block_counters) = (output.len / shape.len(), Buffer::Labels, Buffer::BlockCounters);
        let Some(Augmentation { crop_padding, flip, cutout, brightness, contrast }) = augmentation else {
            let params = params!(
                lowering.target, 88 bytes,
                [images, labels, order, mean, std, position, output, batch_labels, block_counters],
                batch: u32, sample_size: u32 = shape.len(), channels: u32,
            );
            return lowering.launch_over("gather_normalise", output.len, params);
        };
        let params = params!(
            lowering.target, 112 bytes,
            [images, labels, order, mean, std, draws = Buffer::AugmentationEpoch, position, output, batch_labels, block_counters],
            height: u32, width: u32, channels: u32,
            crop_padding: u32, flip: u32, cutout: u32, brightness: f32, contrast: f32,
        );
        let parts = shape.len().div_ceil(VALUES_PER_BLOCK).min(1 << 15);
        lowering.launch("gather_augment", [batch, parts], params)
    }
}

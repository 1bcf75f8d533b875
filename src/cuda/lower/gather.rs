//! Batches from images on the device, normalised, and in training changed at random.

use anyhow::Result;

use super::{Lowering, u32_of};
use crate::cuda::program::{Address, Buffer, params};
use crate::ops::{Augmentation, Gather, RunOn};

/// Values of an image that one block changes: enough to make up for its draws.
const VALUES_OF_A_BLOCK: usize = 4096;

params!(
    GatherParams, 88 bytes,
    [images, labels, order, mean, std, position, output, batch_labels, arrived],
    batch: u32, sample_size: u32, channels: u32
);
params!(
    AugmentParams, 112 bytes,
    [images, labels, order, mean, std, draws, position, output, batch_labels, arrived],
    height: u32, width: u32, channels: u32, crop_padding: u32, flip: u32, cutout: u32, brightness: f32, contrast: f32
);

impl RunOn<Lowering<'_>> for Gather {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let (shape, batch) = (self.shape, self.output.len / self.shape.len());
        let [images, labels, order, position, mean, std] = Buffer::of_set(self.subset).map(Address::at);
        let (output, batch_labels) = (lowering.address(self.output), Address::at(Buffer::Labels));
        let (arrived, channels) = (Address::at(Buffer::BlockCounters), u32_of(shape.channels)?);
        let Some(Augmentation { crop_padding, flip, cutout, brightness, contrast }) = self.augmentation else {
            let params = GatherParams {
                images,
                labels,
                order,
                mean,
                std,
                position,
                output,
                batch_labels,
                arrived,
                batch: u32_of(batch)?,
                sample_size: u32_of(shape.len())?,
                channels,
            };
            return lowering.launch_over("gather_normalise", self.output.len, &params);
        };
        let params = AugmentParams {
            images,
            labels,
            order,
            mean,
            std,
            draws: Address::at(Buffer::AugmentationEpoch),
            position,
            output,
            batch_labels,
            arrived,
            height: u32_of(shape.height)?,
            width: u32_of(shape.width)?,
            channels,
            crop_padding,
            flip: flip.into(),
            cutout,
            brightness,
            contrast,
        };
        let parts = shape.len().div_ceil(VALUES_OF_A_BLOCK).min(1 << 15);
        lowering.launch("gather_augment", [batch, parts], &params)
    }
}

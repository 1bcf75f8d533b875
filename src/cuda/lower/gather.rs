//! Batches from images on the device, normalised, and in training changed at random.

use anyhow::Result;

use super::{Lowering, u32_of};
use crate::cuda::program::{Address, Buffer, SetBuffers, grid_over, params};
use crate::ops::{Augmentation, Gather, RunOn};

/// Values of an image that one block changes: enough to make up for its draws.
const VALUES_OF_A_BLOCK: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy)]
struct GatherParams {
    images: Address,
    labels: Address,
    order: Address,
    mean: Address,
    std: Address,
    position: Address,
    output: Address,
    batch_labels: Address,
    arrived: Address,
    batch: u32,
    sample_size: u32,
    channels: u32,
    unused: u32,
}
params!(GatherParams, 9 addresses, 88 bytes);

#[repr(C)]
#[derive(Clone, Copy)]
struct AugmentParams {
    images: Address,
    labels: Address,
    order: Address,
    mean: Address,
    std: Address,
    draws: Address,
    position: Address,
    output: Address,
    batch_labels: Address,
    arrived: Address,
    height: u32,
    width: u32,
    channels: u32,
    crop_padding: u32,
    flip: u32,
    cutout: u32,
    brightness: f32,
    contrast: f32,
}
params!(AugmentParams, 10 addresses, 112 bytes);

impl RunOn<Lowering<'_>> for Gather {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let (buffers, shape) = (SetBuffers::of(self.subset), self.shape);
        let batch = u32_of(self.output.len / shape.len())?;
        let at = Address::at;
        let (images, labels, order) = (at(buffers.images), at(buffers.labels), at(buffers.order));
        let (mean, std, position) = (at(buffers.mean), at(buffers.std), at(buffers.position));
        let (output, batch_labels) = (lowering.address(self.output), at(Buffer::Labels));
        let (arrived, channels) = (at(Buffer::BlockCounters), u32_of(shape.channels)?);
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
                batch,
                sample_size: u32_of(shape.len())?,
                channels,
                unused: 0,
            };
            lowering.launch("gather_normalise", grid_over(self.output.len), 0, &params);
            return Ok(());
        };
        let params = AugmentParams {
            images,
            labels,
            order,
            mean,
            std,
            draws: at(Buffer::AugmentationEpoch),
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
        let parts = shape.len().div_ceil(VALUES_OF_A_BLOCK).min(1 << 15) as u32;
        lowering.launch("gather_augment", [batch, parts], 0, &params);
        Ok(())
    }
}

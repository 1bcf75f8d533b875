//! Gathers batches from the images on the device: normalises them and, in training, applies random augmentation.

use anyhow::Result;

use super::Lowering;
use super::params::{fit, params};
use crate::cuda::program::{Address, Buffer};
use crate::ops::{Augmentation, Gather, PaddingMode, RunOn, View};
use crate::shape::Shape;

/// Values of an image per block: enough to amortise the block's random draws and its table.
const VALUES_PER_BLOCK: usize = 8192;

impl RunOn<Lowering<'_>> for Gather {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        lower(self, lowering, None)
    }
}

/// Gathers a batch, whose images have been transformed to `staged` if that is given.
pub(super) fn lower(gather: &Gather, lowering: &mut Lowering, staged: Option<Address>) -> Result<()> {
    let Gather { subset, shape, augmentation, view, output } = *gather;
    let Shape { height, width, channels } = shape;
    let [images, labels, order, position, mean, std] = Buffer::of_set(subset);
    let (batch, batch_labels, block_counters) = (output.len / shape.len(), Buffer::Labels, Buffer::BlockCounters);
    let sample_size: u32 = fit(shape.len())?;
    let grid = [batch, shape.len().div_ceil(VALUES_PER_BLOCK).min(1 << 15)];
    if augmentation.is_none() && view != View::default() {
        let View { flip, shift, repeats } = view;
        let params = params!(
            lowering.target, 96 bytes,
            [images, labels, order, mean, std, position, output, batch_labels, block_counters],
            height: u32, width: u32, channels: u32,
            flip: u32, shift: u32 = shift.cast_unsigned(), advances: u32 = !repeats,
        );
        return lowering.launch("gather_view", grid, params);
    }
    let Some(Augmentation { crop_padding, padding_mode, flip, cutout, brightness, contrast }) = augmentation else {
        let params = params!(
            lowering.target, 88 bytes,
            [images, staged, labels, order, mean, std, position, output, batch_labels, block_counters],
            sample_size: u32, channels: u32,
        );
        return lowering.launch("gather_normalise", grid, params);
    };
    let params = params!(
        lowering.target, 136 bytes,
        [
            images, staged, labels, order, indices = Buffer::TrainIndices, mean, std,
            draws = Buffer::AugmentationEpoch, position, output, batch_labels, block_counters,
        ],
        height: u32, width: u32, channels: u32,
        crop_padding: u32, reflect: u32 = padding_mode == PaddingMode::Reflect,
        flip: u32 = flip as u32, cutout: u32, brightness: f32, contrast: f32,
    );
    lowering.launch("gather_augment", grid, params)
}

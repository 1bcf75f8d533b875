//! Random transforms of training pictures: one block transforms a picture before the batch is gathered.

use anyhow::Result;

use super::params::params;
use super::{Lowering, gather};
use crate::cuda::program::{Address, Buffer};
use crate::cuda::scratch::staged_offsets;
use crate::ops::{Augment, PaddingMode, RunOn, Subset};
use crate::shape::Shape;

/// Blocks that erase a rectangle.
const ERASING_BLOCKS: usize = 4;

impl RunOn<Lowering<'_>> for Augment {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { stage, shape, output, .. } = *self;
        let [images, _, order, position, ..] = Buffer::of_set(Subset::Train);
        let (batch, draws, op_count) = (output.len / shape.len(), Buffer::PictureDraws, stage.op_count);
        let Shape { height, width, channels } = shape;
        let Shape { height: stored_height, width: stored_width, .. } = stage.stored;
        let sizes = stage.bytes(shape);
        let [pictures, others, columns, rows, _] =
            staged_offsets(sizes, batch).map(|offset| Address::at(Buffer::Staged).plus(offset));
        if stage.is_staged() {
            let params = params!(
                lowering.target, 104 bytes, [images, order, position, draws, pictures, others, columns, rows],
                stored_height: u32, stored_width: u32, height: u32, width: u32, channels: u32,
                resizes: u32 = stage.resizes, reflect: u32 = stage.padding_mode == PaddingMode::Reflect, op_count: u32,
                other_size: u32 = sizes[1],
            );
            lowering.launch("stage_pictures", [batch, 1], params)?;
        }
        gather::lower(&self.gather(), lowering, stage.is_staged().then_some(pictures))?;
        if stage.erases {
            let params = params!(
                lowering.target, 40 bytes, [position, draws, output],
                height: u32, width: u32, channels: u32, op_count: u32,
            );
            lowering.launch("erase_rectangles", [batch, ERASING_BLOCKS], params)?;
        }
        Ok(())
    }
}

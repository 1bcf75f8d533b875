//! Random transforms of training pictures on the CPU: each picture is transformed as bytes by one thread.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::{Cpu, Real, RunAs};
use super::{gather, pixels};
use crate::ops::{Augment, Draws, PaddingMode, PictureDraw, Stage};
use crate::resample::{Area, Resizer};
use crate::shape::Shape;

/// What is drawn for the pictures of the epoch, and the transformed pictures of the current batch.
#[derive(Default)]
pub(super) struct State {
    pub draws: Draws,
    pictures: Vec<u8>,
}

/// Memory of a thread that is kept between pictures.
#[derive(Default)]
struct Scratch {
    resizer: Resizer,
    pixels: Vec<u8>,
    other: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl State {
    /// Transforms a batch of pictures, of which `picture` returns the bytes, from a position of the epoch's order on. Returns
    /// them in `shape`.
    pub fn stage<'a>(
        &mut self,
        stage: Stage,
        shape: Shape,
        first: usize,
        batch: usize,
        picture: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Result<&[u8]> {
        let Self { draws, pictures: staged } = self;
        ensure!(first + batch <= draws.pictures.len(), "nothing was drawn for the pictures of this step");
        staged.resize(batch * shape.len(), 0);
        let outputs = staged.par_chunks_exact_mut(shape.len()).enumerate();
        match shape.channels {
            1 => outputs.for_each(|(row, to)| transform::<1>(stage, shape, draws, first + row, picture(row), to)),
            3 => outputs.for_each(|(row, to)| transform::<3>(stage, shape, draws, first + row, picture(row), to)),
            channels => anyhow::bail!("pictures of {channels} channels cannot be transformed"),
        }
        Ok(staged)
    }
}

/// Transforms the picture at a position of the epoch's order.
fn transform<const C: usize>(stage: Stage, shape: Shape, draws: &Draws, position: usize, from: &[u8], to: &mut [u8]) {
    let drawn = &draws.pictures[position];
    SCRATCH.with_borrow_mut(|Scratch { resizer, pixels, other }| {
        pixels.resize(shape.len(), 0);
        other.resize(shape.len(), 0);
        if stage.resizes {
            let PictureDraw { top, left, height, width, mirrored, .. } = *drawn;
            let area = Area { top: top as usize, left: left as usize, height, width };
            resizer.resize::<C>((from, stage.stored.width), area, (pixels, shape.width), mirrored);
        } else {
            crop::<C>(drawn, stage.padding_mode, shape, from, pixels);
        }
        for &op in draws.ops_of(position) {
            pixels::apply::<C>(op, &draws.matrices, shape, pixels, other);
        }
        to.copy_from_slice(pixels);
    });
}

/// Crops a picture of the same shape after padding it, and flips it.
fn crop<const C: usize>(drawn: &PictureDraw, padding: PaddingMode, shape: Shape, from: &[u8], to: &mut [u8]) {
    let Shape { height, width, .. } = shape;
    for (row, line) in to.chunks_exact_mut(width * C).enumerate() {
        for (column, to) in line.chunks_exact_mut(C).enumerate() {
            let column = if drawn.mirrored { width - 1 - column } else { column };
            let row = padding.inside(row as i64 + drawn.top, height);
            match row.zip(padding.inside(column as i64 + drawn.left, width)) {
                Some((row, column)) => to.copy_from_slice(&from[(row * width + column) * C..][..C]),
                None => to.fill(0),
            }
        }
    }
}

impl RunAs for Augment {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let Self { stage, shape, output, .. } = *self;
        let first = gather::run::<R>(&self.gather(), cpu, Some(stage))?;
        if !stage.erases {
            return Ok(());
        }
        let drawn = cpu.augment.draws.pictures.get(first..first + output.len / shape.len());
        ensure!(drawn.is_some(), "nothing was drawn for the pictures of this step");
        let [output] = cpu.memory.values::<R, _>([output])?;
        for (picture, drawn) in output.chunks_exact_mut(shape.len()).zip(drawn.unwrap_or_default()) {
            let [rows, columns] = drawn.erased.clone();
            for row in rows {
                let begin = (row * shape.width + columns.start) * shape.channels;
                picture[begin..begin + columns.len() * shape.channels].fill(R::ZERO);
            }
        }
        Ok(())
    }
}

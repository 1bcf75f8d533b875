//! Gathers batches of resident or prefetched images on the CPU, using a lookup table of the 256 normalised values.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::{Cpu, Real, RunAs};
use crate::images::{ImageSource, Prefetch};
use crate::ops::{AugmentationDraw, DataSets, Draws, Gather, Normalise, Stage, Subset};
use crate::shape::Shape;

/// The training and test set.
#[derive(Default)]
pub(super) struct State {
    train: Option<Set>,
    test: Option<Set>,
    /// The seed and the epoch of augmentations.
    augmentation: (u64, u32),
}

/// The images of a set.
enum Images {
    /// All images in memory, in index order.
    Resident(Vec<u8>),
    Streamed(Streamed),
}

struct Streamed {
    source: Arc<dyn ImageSource>,
    max_batch: usize,
    prefetch: Option<Prefetch>,
    /// The current batch, and its position in the order; `None` before the first.
    batch: Vec<u8>,
    held: Option<usize>,
}

struct Set {
    images: Images,
    labels: Vec<u32>,
    op: Normalise,
    /// `[channels][256]`: the normalised value of every byte.
    table: Vec<[f32; 256]>,
    order: Vec<u32>,
    position: usize,
}

impl State {
    fn subset(&mut self, subset: Subset) -> &mut Option<Set> {
        match subset {
            Subset::Train => &mut self.train,
            Subset::Test => &mut self.test,
        }
    }

    fn loaded(&mut self, subset: Subset) -> Result<&mut Set> {
        self.subset(subset).as_mut().context("no data set was loaded")
    }
}

impl Set {
    fn new(op: &Normalise, images: Images, labels: Vec<u32>) -> Result<Self> {
        ensure!(
            op.mean.len() == op.shape.channels && op.std.len() == op.shape.channels,
            "one mean and std per channel"
        );
        let channel = |(&mean, &std): (&f32, &f32)| std::array::from_fn(|x| (x as f32 / 255.0 - mean) / std);
        let table = op.mean.iter().zip(&op.std).map(channel).collect();
        Ok(Self { images, labels, op: op.clone(), table, order: Vec::new(), position: 0 })
    }
}

/// Writes the augmented `image` of a shape to `y`, normalised.
fn augment<R: Real>(
    op: &Normalise,
    shape: Shape,
    table: &[[f32; 256]],
    drawn: &AugmentationDraw,
    image: &[u8],
    y: &mut [R],
) {
    let Normalise { mean, std, .. } = op;
    let has_jitter = drawn.brightness != 1.0 || drawn.contrast != 1.0;
    for (pixel, y) in y.chunks_exact_mut(shape.channels).enumerate() {
        let (row, column) = (pixel / shape.width, pixel % shape.width);
        if drawn.is_cut_out(row, column) {
            y.fill(R::ZERO);
            continue;
        }
        let source = drawn.source(shape, row, column);
        let bytes = source.map(|source| &image[source * shape.channels..][..shape.channels]);
        for (channel, y) in y.iter_mut().enumerate() {
            let byte = bytes.map_or(0, |bytes| bytes[channel]);
            *y = R::new(match has_jitter {
                true => drawn.normalised(byte, mean[channel], std[channel]),
                false => table[channel][usize::from(byte)],
            });
        }
    }
}

impl DataSets for Cpu {
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()> {
        let expected = labels.len() * op.shape.len();
        ensure!(images.len() == expected, "{} bytes do not match {} images", images.len(), labels.len());
        *self.gather.subset(subset) = Some(Set::new(op, Images::Resident(images), labels)?);
        Ok(())
    }

    fn stream_subset(
        &mut self,
        subset: Subset,
        op: &Normalise,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
    ) -> Result<()> {
        let images = Images::Streamed(Streamed { source, max_batch, prefetch: None, batch: Vec::new(), held: None });
        *self.gather.subset(subset) = Some(Set::new(op, images, labels)?);
        Ok(())
    }

    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        let set = self.gather.loaded(subset)?;
        let count = set.labels.len();
        ensure!(order.iter().all(|&index| (index as usize) < count), "the order has an index past the last image");
        set.order.clear();
        set.order.extend_from_slice(order);
        set.position = position;
        if let Images::Streamed(Streamed { source, max_batch, prefetch, held, .. }) = &mut set.images {
            (*prefetch, *held) = (None, None); // stops reading the previous order
            let rest = order.get(position..).unwrap_or_default().to_vec();
            *prefetch = Some(Prefetch::new(Arc::clone(source), rest, *max_batch, set.op.shape.len())?);
        }
        Ok(())
    }

    fn set_augmentation_epoch(&mut self, seed: u64, epoch: u32) -> Result<()> {
        self.gather.augmentation = (seed, epoch);
        Ok(())
    }

    fn set_draws(&mut self, draws: Draws) -> Result<()> {
        self.augment.draws = draws;
        Ok(())
    }

    fn set_labels(&mut self, labels: &[u32]) -> Result<()> {
        self.loss.labels.clear();
        self.loss.labels.extend_from_slice(labels);
        Ok(())
    }
}

impl RunAs for Gather {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        run::<R>(self, cpu, None).map(|_| ())
    }
}

/// Gathers the next batch, of images that a stage transforms first, if there is one. Returns the batch's position.
pub(super) fn run<R: Real>(op: &Gather, cpu: &mut Cpu, stage: Option<Stage>) -> Result<usize> {
    let (shape, len, (seed, epoch)) = (op.shape, op.shape.len(), cpu.gather.augmentation);
    let (batch, set) = (op.output.len / len, cpu.gather.loaded(op.subset)?);
    let stored = stage.map_or(shape, |stage| stage.stored);
    ensure!(set.op.shape == stored, "the set's images are {}, not {stored}", set.op.shape);
    let order = set.order.get(set.position..set.position + batch);
    let order = order.with_context(|| format!("fewer than {batch} images are left in this epoch"))?;
    let (bytes, by_index) = match &mut set.images {
        Images::Resident(images) => (&*images, true),
        Images::Streamed(Streamed { prefetch, batch: current, held, .. }) => {
            let prefetch = prefetch.as_mut().context("no order was set")?;
            if held.replace(set.position) != Some(set.position) {
                prefetch.reuse(std::mem::take(current));
                *current = prefetch.next(batch, stored.len())?;
            }
            (&*current, false)
        }
    };
    let index = |row: usize| if by_index { order[row] as usize } else { row };
    let image = |row: usize| &bytes[index(row) * stored.len()..][..stored.len()];
    let staged = stage.filter(Stage::is_staged);
    let staged = staged.map(|stage| cpu.augment.stage(stage, shape, set.position, batch, image)).transpose()?;
    let [y] = cpu.memory.values::<R, _>([op.output])?;
    let (first, normalise, table, seen) = (set.position, &set.op, &set.table, op.view.draw());
    y.par_chunks_exact_mut(len).enumerate().with_min_len(8).for_each(|(row, y)| {
        let image = staged.map_or_else(|| image(row), |staged| &staged[row * len..][..len]);
        if let Some(augmentation) = op.augmentation {
            let drawn = augmentation.draw(shape, seed, epoch, (first + row) as u64, order[row]);
            return augment(normalise, shape, table, &drawn, image, y);
        }
        if let Some(seen) = &seen {
            return augment(normalise, shape, table, seen, image, y);
        }
        for (y, image) in y.chunks_exact_mut(table.len()).zip(image.chunks_exact(table.len())) {
            y.iter_mut().zip(image).zip(table).for_each(|((y, &x), table)| *y = R::new(table[usize::from(x)]));
        }
    });
    cpu.loss.labels.clear();
    cpu.loss.labels.extend(order.iter().map(|&index| set.labels[index as usize]));
    set.position += if op.view.repeats { 0 } else { batch };
    Ok(first)
}

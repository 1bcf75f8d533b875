//! Batches from the resident images on the CPU, through a table of all 256 normalised values.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::Cpu;
use crate::ops::{GatherOps, Normalise, Span, Subset};

/// Both sets.
#[derive(Default)]
pub(super) struct State {
    train: Option<Resident>,
    test: Option<Resident>,
}

struct Resident {
    images: Vec<u8>,
    labels: Vec<u32>,
    sample_len: usize,
    /// `[channels][256]`: what every byte becomes.
    table: Vec<[f32; 256]>,
    order: Vec<u32>,
    position: usize,
}

impl State {
    fn subset(&mut self, subset: Subset) -> &mut Option<Resident> {
        match subset {
            Subset::Train => &mut self.train,
            Subset::Test => &mut self.test,
        }
    }
}

impl GatherOps for Cpu {
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()> {
        let sample_len = op.shape.len();
        ensure!(images.len() == labels.len() * sample_len, "{} bytes for {} images", images.len(), labels.len());
        ensure!(op.mean.len() == op.shape.channels && op.std.len() == op.shape.channels, "one mean and std a channel");
        let channel = |(&mean, &std): (&f32, &f32)| std::array::from_fn(|x| (x as f32 / 255.0 - mean) / std);
        let table = op.mean.iter().zip(&op.std).map(channel).collect();
        *self.gather.subset(subset) =
            Some(Resident { images, labels, sample_len, table, order: Vec::new(), position: 0 });
        Ok(())
    }

    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        let resident = self.gather.subset(subset).as_mut().context("no data set was loaded")?;
        let count = resident.labels.len();
        ensure!(order.iter().all(|&index| (index as usize) < count), "the order names an image past the last");
        resident.order.clear();
        resident.order.extend_from_slice(order);
        resident.position = position;
        Ok(())
    }

    fn gather_normalise(&mut self, subset: Subset, batch: usize, output: Span) -> Result<()> {
        let resident = self.gather.subset(subset).as_mut().context("no data set was loaded")?;
        let order = resident.order.get(resident.position..resident.position + batch);
        let order = order.with_context(|| format!("no {batch} images are left in this epoch"))?;
        let [y] = self.memory.floats([output.first(batch * resident.sample_len)])?;
        let (images, table, len) = (&resident.images, &resident.table, resident.sample_len);
        y.par_chunks_exact_mut(len).with_min_len(8).zip(order).for_each(|(y, &index)| {
            let image = &images[index as usize * len..][..len];
            for (y, image) in y.chunks_exact_mut(table.len()).zip(image.chunks_exact(table.len())) {
                y.iter_mut().zip(image).zip(table).for_each(|((y, &x), table)| *y = table[usize::from(x)]);
            }
        });
        self.loss.labels.clear();
        self.loss.labels.extend(order.iter().map(|&index| resident.labels[index as usize]));
        resident.position += batch;
        Ok(())
    }
}

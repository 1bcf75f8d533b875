//! Holds out images of every class, for testing or validation.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::{Dataset, counted};
use crate::rng::{Philox, Purpose};

/// The part of a class's images to hold out. A class with two or more images keeps at least one and gives up at least one.
pub fn held_out(count: usize, fraction: f64, mut random: Philox) -> BTreeSet<usize> {
    let wanted = (count as f64 * fraction).round() as usize;
    let wanted = wanted.clamp(1, count.saturating_sub(1).max(1)).min(count.saturating_sub(1));
    // A partial Fisher–Yates shuffle chooses them.
    let mut order: Vec<usize> = (0..count).collect();
    for position in 0..wanted {
        let remaining = u32::try_from(count - position).unwrap_or(u32::MAX);
        order.swap(position, position + random.below(remaining) as usize);
    }
    order[..wanted].iter().copied().collect()
}

/// Which training images to validate with instead of training on them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidationOptions {
    /// The fraction of every class.
    pub fraction: f64,
    /// Seed of the random choice.
    pub seed: u64,
}

/// The indices of the images to keep and of those to hold out, both sorted.
pub fn choose(labels: &[u32], ValidationOptions { fraction, seed }: ValidationOptions) -> (Vec<u32>, Vec<u32>) {
    let mut by_class = BTreeMap::<u32, Vec<u32>>::new();
    for (index, &label) in labels.iter().enumerate() {
        by_class.entry(label).or_default().push(index as u32);
    }
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for (label, images) in by_class {
        let chosen = held_out(images.len(), fraction, Philox::new(seed, Purpose::Validation, label));
        for (number, image) in images.into_iter().enumerate() {
            if chosen.contains(&number) { held.push(image) } else { kept.push(image) }
        }
    }
    kept.sort_unstable();
    held.sort_unstable();
    (kept, held)
}

impl Dataset {
    /// Moves a part of every class's training images to the validation set. Both stay in their order.
    ///
    /// # Errors
    /// If the set has validation images of its own, or no class has a training image to spare.
    pub(super) fn hold_out_validation(&mut self, options: ValidationOptions) -> Result<()> {
        let own = counted(self.val.count(), "validation image");
        ensure!(self.val.count() == 0, "--val-fraction: {} has {own} of its own, in a folder val", self.name);
        let (kept, held) = choose(&self.train.labels, options);
        ensure!(!held.is_empty(), "--val-fraction: every class of {} has only one training image", self.name);
        let image_len = self.shape.len();
        self.val = self.train.select(&held, image_len);
        self.train = self.train.select(&kept, image_len);
        Ok(())
    }
}

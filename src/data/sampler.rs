//! The order of the samples in an epoch.

use crate::rng::{Philox, Purpose};

/// The indices `0..count`, in order or, if `shuffle` is set, in a random order that depends only on `count`, `seed` and
/// `epoch`. A resumed run therefore reproduces the order from the epoch number.
///
/// # Panics
/// If `count` does not fit in a `u32`. [`Dataset::validate`](super::Dataset::validate) rejects such sets.
pub fn epoch_order(count: usize, seed: u64, epoch: u32, shuffle: bool) -> Vec<u32> {
    let count = u32::try_from(count).expect("a data set has at most u32::MAX samples");
    let mut order: Vec<u32> = (0..count).collect();
    if shuffle {
        // Fisher–Yates shuffle: every permutation is equally likely.
        let mut random = Philox::new(seed, Purpose::Shuffle, epoch);
        for last in (1..count).rev() {
            let chosen = random.below(last + 1);
            order.swap(last as usize, chosen as usize);
        }
    }
    order
}

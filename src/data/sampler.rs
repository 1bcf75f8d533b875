//! The order in which an epoch visits the samples.

use crate::rng::{Philox, Purpose};

/// The numbers `0..count`, in order or, where `shuffle` is set, in a random order that depends on `count`, `seed` and
/// `epoch` alone. So a resumed run needs only the epoch's number to go on in the same order.
///
/// # Panics
/// If `count` does not fit a `u32`; [`Dataset::validate`](super::Dataset::validate) refuses such a set.
pub fn epoch_order(count: usize, seed: u64, epoch: u32, shuffle: bool) -> Vec<u32> {
    let count = u32::try_from(count).expect("a data set has at most u32::MAX samples");
    let mut order: Vec<u32> = (0..count).collect();
    if shuffle {
        // Fisher and Yates's shuffle: every permutation is equally likely.
        let mut random = Philox::new(seed, Purpose::Shuffle, epoch);
        for last in (1..count).rev() {
            let chosen = random.below(last + 1);
            order.swap(last as usize, chosen as usize);
        }
    }
    order
}

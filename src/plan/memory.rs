//! Assigns offsets to buffers with known lifetimes. Two buffers share memory only if their lifetimes do not overlap.

use super::ValueId;
use crate::ops::{Region, Span};

/// Alignment of every buffer in elements: 256 bytes of fp32, enough for any vector access.
pub(super) const ALIGNMENT: usize = 64;

/// A buffer's length in elements, and the first and last step that accesses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub len: usize,
    pub first: usize,
    pub last: usize,
}

impl Lifetime {
    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Assigns offsets, largest buffers first, each in the lowest gap that fits it. Returns the offsets and the total
/// length.
fn assign(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(lifetimes[index].len), index));
    let mut offsets = vec![0; lifetimes.len()];
    let mut placed: Vec<usize> = Vec::new(); // sorted by offset
    let mut total = 0;
    for index in order {
        let len = lifetimes[index].len;
        let mut offset = 0;
        for &other in placed.iter().filter(|&&other| lifetimes[other].overlaps(&lifetimes[index])) {
            if offset + len <= offsets[other] {
                break;
            }
            offset = offset.max((offsets[other] + lifetimes[other].len).next_multiple_of(ALIGNMENT));
        }
        offsets[index] = offset;
        total = total.max(offset + len);
        placed.insert(placed.partition_point(|&other| offsets[other] <= offset), index);
    }
    (offsets, total.next_multiple_of(ALIGNMENT))
}

/// A buffer of a plan before its offset is assigned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// Activations, gradients and indices, which are placed by lifetime. The length is per sample.
    Planned(Region, Lifetime),
    /// Parameters, their gradients and optimiser state, and statistics.
    Fixed(Span),
}

/// The spans of all values, and the lengths of the arena and of the indices, for batches of `max_batch`.
pub(super) fn place(values: &[Value], max_batch: usize) -> (Vec<Span>, usize, usize) {
    let unplaced = |value: &Value| match *value {
        Value::Fixed(span) => span,
        Value::Planned(region, lifetime) => Span::new(region, 0, lifetime.len * max_batch),
    };
    let mut places: Vec<Span> = values.iter().map(unplaced).collect();
    let mut place_in = |target| {
        let planned = values.iter().enumerate().filter_map(|(id, value)| match *value {
            Value::Planned(region, life) if region == target => {
                Some((id, Lifetime { len: life.len * max_batch, ..life }))
            }
            _ => None,
        });
        let (ids, lifetimes): (Vec<ValueId>, Vec<Lifetime>) = planned.unzip();
        let (offsets, len) = assign(&lifetimes);
        ids.into_iter().zip(offsets).for_each(|(id, offset)| places[id].offset = offset);
        len
    };
    let (arena_len, indices_len) = (place_in(Region::Arena), place_in(Region::Indices));
    (places, arena_len, indices_len)
}

#[cfg(test)]
mod tests {
    use super::{Lifetime, assign};
    use crate::rng::{Philox, Purpose};

    #[test]
    fn buffers_overlap_only_if_their_lifetimes_do_not() {
        let mut stream = Philox::new(1, Purpose::Benchmark, 0);
        for _ in 0..200 {
            let lifetimes: Vec<Lifetime> = (0..30)
                .map(|_| {
                    let (first, length) = (stream.below(40) as usize, stream.below(8) as usize);
                    Lifetime { len: 1 + stream.below(500) as usize, first, last: first + length }
                })
                .collect();
            let (offsets, total) = assign(&lifetimes);
            for a in 0..lifetimes.len() {
                assert!(offsets[a] + lifetimes[a].len <= total);
                for b in 0..a {
                    let disjoint =
                        offsets[a] + lifetimes[a].len <= offsets[b] || offsets[b] + lifetimes[b].len <= offsets[a];
                    assert!(disjoint || !lifetimes[a].overlaps(&lifetimes[b]));
                }
            }
            let sum: usize = lifetimes.iter().map(|lifetime| lifetime.len.next_multiple_of(64)).sum();
            assert!(total < sum, "no memory was shared");
        }
    }
}

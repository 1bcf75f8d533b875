//! The CPU's regions, and disjoint views into them: one allocation of floats and one of indices, and in bf16 another of
//! activations and weights.

use std::array;
use std::ops::Range;

use anyhow::{Result, anyhow, ensure};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::ELEMENTWISE_CHUNK;
use crate::cpu::real::Real;
use crate::ops::{MemorySizes, Precision, Region, Span};

/// Bytes per cache line; every region is aligned to one.
const LINE: usize = 64;

/// Views of `N` spans of activations and weights, `M` of floats and one of indices.
pub(in crate::cpu) struct Views<'a, R, const N: usize, const M: usize> {
    pub values: [&'a mut [R]; N],
    pub floats: [&'a mut [f32]; M],
    /// Empty if none were requested.
    pub indices: &'a mut [u32],
}

/// Views of two sets of spans.
type TwoSets<'a, R, const N: usize, const M: usize> = ([&'a mut [R]; N], [&'a mut [R]; M]);

/// All regions.
#[derive(Default)]
pub(in crate::cpu) struct Memory {
    /// All regions of floats; in bf16 all but the arena.
    floats: Store<f32>,
    /// In bf16, the arena and a copy of the parameters, rounded.
    halves: Store<bf16>,
    indices: Vec<u32>,
    precision: Precision,
    parameters_version: u64,
    /// The version of the parameters in `halves`.
    rounded_version: u64,
}

/// Regions of one number format in one vector, so that any set of disjoint spans can be borrowed at once.
#[derive(Default)]
pub(in crate::cpu) struct Store<R> {
    values: Vec<R>,
    /// Start offsets of the regions, in the order of [`region_index`], and the end of the last.
    bounds: [usize; 9],
}

impl<R: Real> Store<R> {
    fn new(lengths: [usize; 8]) -> Result<Self> {
        let line = LINE / size_of::<R>();
        let total: usize = lengths.iter().map(|len| len.next_multiple_of(line)).sum::<usize>() + line;
        let values = zeroed::<R>(total)?;
        let misaligned = values.as_ptr().align_offset(LINE);
        let mut bounds = [if misaligned < line { misaligned } else { 0 }; 9];
        for (region, len) in lengths.iter().enumerate() {
            bounds[region + 1] = bounds[region] + len.next_multiple_of(line);
        }
        Ok(Self { values, bounds })
    }

    fn range(&self, span: Span) -> Result<Range<usize>> {
        let region = region_index(span.region).ok_or_else(|| anyhow!("{span:?} holds indices, not floats"))?;
        let begin = self.bounds[region] + span.offset;
        ensure!(begin + span.len <= self.bounds[region + 1], "{span:?} is outside the allocated memory");
        Ok(begin..begin + span.len)
    }

    /// Views of two sets of spans, which must not overlap.
    pub fn views<const N: usize, const M: usize>(
        &mut self,
        first: [Span; N],
        second: [Span; M],
    ) -> Result<TwoSets<'_, R, N, M>> {
        /// The most views that an operator needs.
        const MOST: usize = 16;
        const { assert!(N + M <= MOST, "an operator needs more views") };
        let overlap = || anyhow!("the buffers of an operator overlap: {first:?} {second:?}");
        let mut order: [(usize, Range<usize>); MOST] = array::from_fn(|at| (at, 0..0));
        for (slot, span) in order.iter_mut().zip(first.iter().chain(&second)) {
            slot.1 = self.range(*span)?;
        }
        order.sort_unstable_by_key(|(_, range)| range.start);
        let mut views: [&mut [R]; MOST] = array::from_fn(|_| Default::default());
        let (mut rest, mut at) = (&mut *self.values, 0);
        for (index, range) in order.into_iter().filter(|(_, range)| !range.is_empty()) {
            let (_, after) = rest.split_at_mut(range.start.checked_sub(at).ok_or_else(overlap)?);
            let (view, after) = after.split_at_mut(range.len());
            (views[index], rest, at) = (view, after, range.end);
        }
        let mut views = views.into_iter();
        let mut next = |_| views.next().unwrap_or_default();
        Ok((array::from_fn(&mut next), array::from_fn(next)))
    }
}

impl Memory {
    pub fn new(sizes: &MemorySizes, precision: Precision) -> Result<Self> {
        let (arena, halves) = match precision {
            Precision::Bf16 => (0, [sizes.arena, sizes.parameters, 0, 0, 0, 0, 0, 0]),
            _ => (sizes.arena, [0; 8]),
        };
        let floats = [
            arena,
            sizes.parameters,
            sizes.gradients,
            sizes.gradient_sum,
            sizes.momentum,
            sizes.second_moment,
            sizes.average,
            sizes.statistics,
        ];
        let bytes = |lengths: [usize; 8], size| lengths.iter().sum::<usize>().saturating_mul(size);
        ensure_available(bytes(floats, size_of::<f32>()).saturating_add(bytes(halves, size_of::<bf16>())))?;
        let mut indices = Vec::new();
        indices.try_reserve_exact(sizes.indices).map_err(|_| out_of_memory(sizes.indices * size_of::<u32>()))?;
        indices.resize(sizes.indices, 0);
        let (floats, halves) = (Store::new(floats)?, Store::new(halves)?);
        Ok(Self { floats, halves, indices, precision, parameters_version: 0, rounded_version: 0 })
    }

    /// A number that changes whenever parameters may have been written.
    pub fn parameters_version(&self) -> u64 {
        self.parameters_version
    }

    /// Copies `values` to the beginning of `span`.
    pub fn write(&mut self, span: Span, values: &[f32]) -> Result<()> {
        ensure!(values.len() <= span.len, "{} values do not fit {span:?}", values.len());
        let span = span.first(values.len());
        if self.is_bf16(span) {
            let [target] = self.values::<bf16, 1>([span])?;
            target.iter_mut().zip(values).for_each(|(target, value)| *target = bf16::new(*value));
            return Ok(());
        }
        let [target] = self.floats([span])?;
        target.copy_from_slice(values);
        self.parameters_version += u64::from(span.region == Region::Parameters);
        Ok(())
    }

    /// A copy of `span`.
    pub fn read(&mut self, span: Span) -> Result<Vec<f32>> {
        if span.region == Region::Indices {
            return Ok(self.indices(span)?.iter().map(|&index| index as f32).collect());
        }
        if self.is_bf16(span) {
            let [source] = self.values::<bf16, 1>([span])?;
            return Ok(source.iter().map(|value| value.get()).collect());
        }
        let [source] = self.floats([span])?;
        Ok(source.to_vec())
    }

    /// Views of spans of floats, which must not overlap. Parameters must not be written through these views: see
    /// [`Memory::update`].
    pub fn floats<const N: usize>(&mut self, spans: [Span; N]) -> Result<[&mut [f32]; N]> {
        self.values(spans)
    }

    /// Views of spans of activations and weights, which must not overlap, nor be written if they are weights.
    pub fn values<R: Real, const N: usize>(&mut self, spans: [Span; N]) -> Result<[&mut [R]; N]> {
        Ok(self.views(spans, [], None)?.values)
    }

    pub fn indices(&mut self, span: Span) -> Result<&mut [u32]> {
        indices_of(&mut self.indices, span)
    }

    /// Views of spans of activations and weights, of floats, and of indices, which must not overlap, nor be written if they
    /// are parameters.
    pub fn views<R: Real, const N: usize, const M: usize>(
        &mut self,
        values: [Span; N],
        floats: [Span; M],
        indices: Option<Span>,
    ) -> Result<Views<'_, R, N, M>> {
        // Floats may be requested to be written, so only a reader of rounded parameters needs them to be up to date.
        if R::PRECISION == Precision::Bf16 && values.iter().any(|span| span.region == Region::Parameters) {
            self.round_parameters();
        }
        let (values, floats) = match R::PRECISION {
            Precision::Bf16 => {
                let (values, []) = self.halves.views(values, [])?;
                let ([], floats) = self.floats.views([], floats)?;
                (values.map(|values| R::of_bf16(values).unwrap_or_default()), floats)
            }
            _ => {
                let (values, floats) = self.floats.views(values, floats)?;
                (values.map(|values| R::of_floats(values).unwrap_or_default()), floats)
            }
        };
        let indices = indices.map_or(Ok(Default::default()), |span| indices_of(&mut self.indices, span))?;
        Ok(Views { values, floats, indices })
    }

    /// Like [`Memory::floats`], but parameters may be written.
    pub fn update<const N: usize>(&mut self, spans: [Span; N]) -> Result<[&mut [f32]; N]> {
        self.parameters_version += 1;
        self.floats(spans)
    }

    /// The whole of a region of floats.
    pub fn whole(&self, region: Region) -> Span {
        let (index, bounds) = (region_index(region).unwrap_or(0), &self.floats.bounds);
        Span::new(region, 0, bounds[index + 1] - bounds[index])
    }

    /// Rounds parameters that have changed.
    fn round_parameters(&mut self) {
        if self.rounded_version == self.parameters_version {
            return;
        }
        let of = |bounds: &[usize; 9]| bounds[1]..bounds[2];
        let floats = &self.floats.values[of(&self.floats.bounds)];
        let halves = &mut self.halves.values[of(&self.halves.bounds)];
        halves.par_chunks_mut(ELEMENTWISE_CHUNK).zip(floats.par_chunks(ELEMENTWISE_CHUNK)).for_each(
            |(halves, floats)| {
                halves.iter_mut().zip(floats).for_each(|(half, float)| *half = bf16::new(*float));
            },
        );
        self.rounded_version = self.parameters_version;
    }

    fn is_bf16(&self, span: Span) -> bool {
        self.precision == Precision::Bf16 && span.region == Region::Arena
    }
}

/// The position of a region of floats in [`Store::bounds`]; `None` for indices.
fn region_index(region: Region) -> Option<usize> {
    match region {
        Region::Arena => Some(0),
        Region::Parameters => Some(1),
        Region::Gradients => Some(2),
        Region::GradientSum => Some(3),
        Region::Momentum => Some(4),
        Region::SecondMoment => Some(5),
        Region::Average => Some(6),
        Region::Statistics => Some(7),
        Region::Indices => None,
    }
}

fn indices_of(indices: &mut [u32], span: Span) -> Result<&mut [u32]> {
    ensure!(span.region == Region::Indices, "{span:?} does not hold indices");
    indices
        .get_mut(span.offset..span.offset + span.len)
        .ok_or_else(|| anyhow!("{span:?} is outside the allocated memory"))
}

/// A zeroed vector, or an error if there is not enough memory.
pub(in crate::cpu) fn zeroed<R: Real>(len: usize) -> Result<Vec<R>> {
    let bytes = len.saturating_mul(size_of::<R>());
    ensure_available(bytes)?;
    let mut probe: Vec<R> = Vec::new();
    probe.try_reserve_exact(len).map_err(|_| out_of_memory(bytes))?;
    drop(probe);
    // For floats, `vec!` requests zeroed pages from the system, which cost nothing until they are accessed.
    Ok(vec![R::ZERO; len])
}

/// Linux overcommits memory and kills processes when it runs out, so compare with the memory that is really available.
fn ensure_available(bytes: usize) -> Result<()> {
    match available_bytes() {
        Some(available) if bytes > available => Err(out_of_memory(bytes)),
        _ => Ok(()),
    }
}

/// Bytes that can be used without swapping, if the system reports them.
fn available_bytes() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

fn out_of_memory(bytes: usize) -> anyhow::Error {
    anyhow!(
        "not enough memory for {:.1} MB of activations and parameters; try a smaller --batch-size, or smaller images",
        bytes as f64 * 1e-6
    )
}

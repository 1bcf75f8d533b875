//! The CPU's regions: one allocation of floats, one of indices, and disjoint views into them.

use anyhow::{Result, anyhow, ensure};

use crate::ops::{MemorySizes, Region, Span};

/// Floats per cache line; every region is aligned to one.
const LINE: usize = 16;

/// `N` views of floats, and optionally one of indices.
type FloatsAndIndices<'a, const N: usize> = ([&'a mut [f32]; N], Option<&'a mut [u32]>);

/// All regions. All regions of floats share one vector, so that any set of disjoint spans can be borrowed at once.
#[derive(Default)]
pub(in crate::cpu) struct Memory {
    floats: Vec<f32>,
    /// Start offsets of the regions of floats, in the order of [`region_index`], and the end of the last.
    bounds: [usize; 9],
    indices: Vec<u32>,
    parameters_version: u64,
}

impl Memory {
    pub fn new(sizes: &MemorySizes) -> Result<Self> {
        let lengths = [
            sizes.arena,
            sizes.parameters,
            sizes.gradients,
            sizes.gradient_sum,
            sizes.momentum,
            sizes.second_moment,
            sizes.average,
            sizes.statistics,
        ];
        let total: usize = lengths.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>() + LINE;
        let floats = zeroed(total)?;
        let misaligned = floats.as_ptr().align_offset(LINE * size_of::<f32>());
        let mut bounds = [if misaligned < LINE { misaligned } else { 0 }; 9];
        for (region, len) in lengths.iter().enumerate() {
            bounds[region + 1] = bounds[region] + len.next_multiple_of(LINE);
        }
        let mut indices = Vec::new();
        indices.try_reserve_exact(sizes.indices).map_err(|_| out_of_memory(sizes.indices))?;
        indices.resize(sizes.indices, 0);
        Ok(Self { floats, bounds, indices, parameters_version: 0 })
    }

    /// A number that changes whenever parameters may have been written.
    pub fn parameters_version(&self) -> u64 {
        self.parameters_version
    }

    /// Copies `values` to the beginning of `span`.
    pub fn write(&mut self, span: Span, values: &[f32]) -> Result<()> {
        let [target] = self.floats([span])?;
        ensure!(values.len() <= target.len(), "{} values do not fit {span:?}", values.len());
        target[..values.len()].copy_from_slice(values);
        self.parameters_version += u64::from(span.region == Region::Parameters);
        Ok(())
    }

    /// Views of `spans`, which must not overlap. Parameters must not be written through these views: see
    /// [`Memory::update`].
    pub fn floats<const N: usize>(&mut self, spans: [Span; N]) -> Result<[&mut [f32]; N]> {
        let (floats, _) = self.floats_and_indices(spans, None)?;
        Ok(floats)
    }

    pub fn indices(&mut self, span: Span) -> Result<&mut [u32]> {
        indices_of(&mut self.indices, span)
    }

    /// Views of float spans, and optionally one of indices.
    pub fn floats_and_indices<const N: usize>(
        &mut self,
        spans: [Span; N],
        indices: Option<Span>,
    ) -> Result<FloatsAndIndices<'_, N>> {
        let mut ranges = [const { 0..0 }; N];
        for (range, span) in ranges.iter_mut().zip(spans) {
            *range = self.range(span)?;
        }
        let views = self
            .floats
            .get_disjoint_mut(ranges)
            .map_err(|_| anyhow!("the buffers of an operator overlap: {spans:?}"))?;
        let indices = indices.map(|span| indices_of(&mut self.indices, span)).transpose()?;
        Ok((views, indices))
    }

    /// Like [`Memory::floats`], but parameters may be written.
    pub fn update<const N: usize>(&mut self, spans: [Span; N]) -> Result<[&mut [f32]; N]> {
        self.parameters_version += 1;
        self.floats(spans)
    }

    /// The whole of a region of floats.
    pub fn whole(&self, region: Region) -> Span {
        let index = region_index(region).unwrap_or(0);
        Span::new(region, 0, self.bounds[index + 1] - self.bounds[index])
    }

    fn range(&self, span: Span) -> Result<std::ops::Range<usize>> {
        let region = region_index(span.region).ok_or_else(|| anyhow!("{span:?} holds indices, not floats"))?;
        let begin = self.bounds[region] + span.offset;
        ensure!(begin + span.len <= self.bounds[region + 1], "{span:?} is outside the allocated memory");
        Ok(begin..begin + span.len)
    }
}

/// The position of a region of floats in [`Memory::bounds`]; `None` for indices.
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
pub(in crate::cpu) fn zeroed(len: usize) -> Result<Vec<f32>> {
    // Linux overcommits memory and kills processes when it runs out, so compare with the memory that is really
    // available.
    if available_bytes().is_some_and(|available| len.saturating_mul(size_of::<f32>()) > available) {
        return Err(out_of_memory(len));
    }
    let mut probe: Vec<f32> = Vec::new();
    probe.try_reserve_exact(len).map_err(|_| out_of_memory(len))?;
    drop(probe);
    // `vec!` requests zeroed pages from the system, which cost nothing until they are accessed.
    Ok(vec![0.0; len])
}

/// Bytes that can be used without swapping, if the system reports them.
fn available_bytes() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

fn out_of_memory(elements: usize) -> anyhow::Error {
    anyhow!(
        "not enough memory for {:.1} MB of activations and parameters; try a smaller --batch-size, or smaller images",
        elements as f64 * 4e-6
    )
}

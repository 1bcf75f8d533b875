//! The CPU's regions: one allocation of floats, one of indices, and disjoint views into them.

use anyhow::{Result, anyhow, ensure};

use crate::ops::{MemorySizes, Region, Span};

/// Floats in a cache line; every region begins on one.
const LINE: usize = 16;

/// `N` views of floats, and one of indices where it was asked for.
type FloatsAndIndices<'a, const N: usize> = ([&'a mut [f32]; N], Option<&'a mut [u32]>);

/// All regions. Floats of every region lie in one vector, so that any set of disjoint spans can be borrowed at once.
#[derive(Default)]
pub(in crate::cpu) struct Memory {
    floats: Vec<f32>,
    /// Beginning of arena, parameters, gradients, momentum, average and statistics, and the end of the last.
    bounds: [usize; 7],
    indices: Vec<u32>,
    parameters_version: u64,
}

impl Memory {
    pub fn new(sizes: &MemorySizes) -> Result<Self> {
        let lengths = [sizes.arena, sizes.parameters, sizes.gradients, sizes.momentum, sizes.average, sizes.statistics];
        let total: usize = lengths.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>() + LINE;
        let floats = zeroed(total)?;
        let misaligned = floats.as_ptr().align_offset(LINE * size_of::<f32>());
        let mut bounds = [if misaligned < LINE { misaligned } else { 0 }; 7];
        for (region, len) in lengths.iter().enumerate() {
            bounds[region + 1] = bounds[region] + len.next_multiple_of(LINE);
        }
        let mut indices = Vec::new();
        indices.try_reserve_exact(sizes.indices).map_err(|_| out_of_memory(sizes.indices))?;
        indices.resize(sizes.indices, 0);
        Ok(Self { floats, bounds, indices, parameters_version: 0 })
    }

    /// Changes whenever parameters may have been written.
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

    /// Views of `spans`, which must not overlap; operators read parameters through them, and write elsewhere.
    pub fn floats<const N: usize>(&mut self, spans: [Span; N]) -> Result<[&mut [f32]; N]> {
        let (floats, _) = self.floats_and_indices(spans, None)?;
        Ok(floats)
    }

    pub fn indices(&mut self, span: Span) -> Result<&mut [u32]> {
        indices_of(&mut self.indices, span)
    }

    /// Views of float spans beside one of indices.
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
            .map_err(|_| anyhow!("an operator was given overlapping memory: {spans:?}"))?;
        let indices = indices.map(|span| indices_of(&mut self.indices, span)).transpose()?;
        Ok((views, indices))
    }

    /// As [`Memory::floats`], where parameters may be written.
    pub fn update<const N: usize>(&mut self, spans: [Span; N]) -> Result<[&mut [f32]; N]> {
        self.parameters_version += 1;
        self.floats(spans)
    }

    /// All of a region of floats.
    pub fn whole(&self, region: Region) -> Span {
        let index = place(region).unwrap_or(0);
        Span::new(region, 0, self.bounds[index + 1] - self.bounds[index])
    }

    fn range(&self, span: Span) -> Result<std::ops::Range<usize>> {
        let region = place(span.region).ok_or_else(|| anyhow!("{span:?} holds indices, not numbers"))?;
        let begin = self.bounds[region] + span.offset;
        ensure!(begin + span.len <= self.bounds[region + 1], "{span:?} is outside of the allocated memory");
        Ok(begin..begin + span.len)
    }
}

/// Where a region of floats lies among the others.
fn place(region: Region) -> Option<usize> {
    match region {
        Region::Arena => Some(0),
        Region::Parameters => Some(1),
        Region::Gradients => Some(2),
        Region::Momentum => Some(3),
        Region::Average => Some(4),
        Region::Statistics => Some(5),
        Region::Indices => None,
    }
}

fn indices_of(indices: &mut [u32], span: Span) -> Result<&mut [u32]> {
    ensure!(span.region == Region::Indices, "{span:?} does not hold indices");
    indices
        .get_mut(span.offset..span.offset + span.len)
        .ok_or_else(|| anyhow!("{span:?} is outside of the allocated memory"))
}

/// A zeroed vector, or an error where the system has not that much memory.
fn zeroed(len: usize) -> Result<Vec<f32>> {
    // Linux promises more than it has and kills whoever takes it at its word, so compare with what it really has.
    if available_bytes().is_some_and(|available| len.saturating_mul(size_of::<f32>()) > available) {
        return Err(out_of_memory(len));
    }
    let mut probe: Vec<f32> = Vec::new();
    probe.try_reserve_exact(len).map_err(|_| out_of_memory(len))?;
    drop(probe);
    // From `vec!`, pages come zeroed from the system and cost nothing until they are touched.
    Ok(vec![0.0; len])
}

/// Bytes that can be used without swapping, where the system tells.
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

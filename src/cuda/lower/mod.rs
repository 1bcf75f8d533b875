//! Lowers operators to launches. Lowering needs no driver and no device, so tests and `summary --plan` see exactly the
//! list that runs. There is one file per operator, named as in `ops/`.

mod accumulate;
mod activation;
mod augment;
mod bias;
mod conv;
mod cudnn;
mod direct;
mod dropout;
mod gather;
mod geometry;
mod grid;
mod grouped;
mod implicit;
mod join;
mod linear;
mod loss;
mod lrn;
mod mix;
mod muon;
mod norm;
mod optimizer;
mod params;
mod pointwise;
mod pool;
mod site;
mod split_k;
pub(super) mod tile;
mod views;

pub(super) use optimizer::swap_average;
pub(super) use site::Site;

use std::collections::HashSet;

use anyhow::{Context, Result};

use super::convolution::Problem;
use super::gemm::{Gemm, LtEpilogue};
use super::program::{Address, Buffer, KernelLaunch, Launch, LoweredStep, Params, grid_over};
use crate::ops::{Candidate, Precision, Region, RunOn, Span, Step};
use params::HasAddress;

/// The setup of a device that launches depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub precision: Precision,
    /// Bytes available for im2col columns.
    pub columns: usize,
    pub device: Device,
}

/// The properties of a device that decide which kernels it can run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    /// Its compute capability, as 10·major + minor.
    pub capability: u32,
    /// Most bytes of shared memory of a block.
    pub shared: u32,
}

impl Device {
    /// An H100, which is assumed if there is no device.
    pub const H100: Self = Self { capability: 90, shared: 227 * 1024 };
}

/// Chooses between equivalent launches.
pub(super) trait Choose {
    /// Returns one of the candidates, which are never empty. The first candidate of an algorithm is the one that a
    /// request for the algorithm selects.
    fn choose(&mut self, site: &Site, candidates: &[Candidate]) -> Candidate;

    /// Whether cuBLASLt supports a product with this epilogue.
    fn lt_supports(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool;

    /// Whether cuDNN is a candidate for a convolution. It may still turn out not to support it.
    fn cudnn_applies(&mut self, problem: &Problem) -> bool;
}

/// Lowers a sequence.
///
/// # Errors
/// If an operator is too large for the kernels.
pub(super) fn lower(steps: Vec<Step>, target: Target, choose: &mut dyn Choose) -> Result<Vec<LoweredStep>> {
    let mut lowering = Lowering::new(target, choose);
    let lowered = |step: Step| {
        let launches = lowering.step(&step)?;
        Ok(LoweredStep { step, site: lowering.site.take(), launches })
    };
    steps.into_iter().map(lowered).collect()
}

/// The state of lowering a sequence: the launches of the current step, and results of earlier steps that it may use.
pub(super) struct Lowering<'a> {
    target: Target,
    choose: &'a mut dyn Choose,
    launches: Vec<Launch>,
    /// The site of the current step.
    site: Option<String>,
    /// ReLU masks that forward products have written.
    pub masks: HashSet<Span>,
    /// Bias gradients that input gradients have deferred to weight gradients.
    pub deferred: HashSet<Span>,
}

impl<'a> Lowering<'a> {
    pub fn new(target: Target, choose: &'a mut dyn Choose) -> Self {
        Self { target, choose, launches: Vec::new(), site: None, masks: HashSet::new(), deferred: HashSet::new() }
    }

    /// The launches of the next step.
    pub fn step(&mut self, step: &Step) -> Result<Vec<Launch>> {
        step.op.run_on(self).with_context(|| step.label.clone())?;
        Ok(std::mem::take(&mut self.launches))
    }

    fn choose(&mut self, site: &Site, candidates: &[Candidate]) -> Candidate {
        self.site = Some(site.to_string());
        self.choose.choose(site, candidates)
    }

    fn is_16_bit(&self) -> bool {
        self.target.precision.is_16_bit()
    }

    /// Bytes per element of activations.
    fn real_size(&self) -> usize {
        self.target.precision.real_size()
    }

    /// Elements in 16 bytes of storage.
    fn vector(&self) -> usize {
        16 / self.real_size()
    }

    fn address(&self, span: Span) -> Address {
        span.address(self.target)
    }

    /// The address of a weight as products read it: with 16-bit storage, of its rounded copy.
    fn weight(&self, span: Span) -> Address {
        match span.region {
            Region::Parameters if self.is_16_bit() => Address::at(Buffer::RoundedParameters).plus(span.offset * 2),
            _ => self.address(span),
        }
    }

    /// The variant of `kernel` for these operands, and the elements that one of its threads processes: `<kernel>_vec`,
    /// with 16 bytes of elements, if all `lengths` and the offsets of all `spans` are multiples of that; else `kernel`,
    /// with one.
    fn variant(&self, kernel: &str, lengths: &[usize], spans: &[Span]) -> (String, usize) {
        let vector = self.vector();
        let vectorised =
            lengths.iter().chain(spans.iter().map(|span| &span.offset)).all(|it| it.is_multiple_of(vector));
        if vectorised { (format!("{kernel}_vec"), vector) } else { (kernel.to_string(), 1) }
    }

    fn launch(&mut self, kernel: impl Into<String>, grid: [usize; 2], params: Params) -> Result<()> {
        self.launches.push(Launch::Kernel(KernelLaunch::new(kernel, grid, 0, params)?));
        Ok(())
    }

    /// Launches a grid-stride kernel over `items` items.
    fn launch_over(&mut self, kernel: impl Into<String>, items: usize, params: Params) -> Result<()> {
        self.launch(kernel, grid_over(items), params)
    }

    fn gemm(&mut self, gemm: Gemm<Address>) {
        if gemm.m > 0 && gemm.n > 0 {
            self.launches.push(Launch::Gemm(gemm));
        }
    }
}

//! From operators to launches: pure, without a driver or a device, so that tests and `summary --plan` see the very list that
//! runs. One file an operator, with the stems of `ops/`.

mod activation;
mod bias;
mod conv;
mod direct;
mod dropout;
mod gather;
mod geometry;
mod grouped;
pub(super) mod implicit;
mod join;
mod linear;
mod loss;
mod lrn;
mod norm;
mod optimizer;
mod params;
mod pool;
mod site;
mod split_k;

pub(super) use optimizer::swap_average;
pub(super) use site::Site;

use std::collections::HashSet;

use anyhow::{Context, Result};

use super::gemm::{Gemm, LtEpilogue};
use super::program::{Address, Buffer, KernelLaunch, Launch, LoweredStep, Params, grid_over};
use crate::ops::{Algorithm, Precision, Region, RunOn, Span, Step};
use params::HasAddress;

/// What of a device the launches depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub precision: Precision,
    /// Bytes for the columns of convolutions.
    pub columns: usize,
}

/// Who decides between equivalent launches.
pub(super) trait Choose {
    /// One of the candidates, of which there is at least one.
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm;

    /// Whether cuBLASLt computes a product that ends like this.
    fn lt_supports(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool;
}

/// Lowers a sequence.
///
/// # Errors
/// Where an operator is too large for the kernels.
pub(super) fn lower(steps: Vec<Step>, target: Target, choose: &mut dyn Choose) -> Result<Vec<LoweredStep>> {
    let mut lowering = Lowering::new(target, choose);
    let lowered = |step: Step| {
        let launches = lowering.step(&step)?;
        Ok(LoweredStep { step, launches })
    };
    steps.into_iter().map(lowered).collect()
}

/// A sequence on its way: what is launched for the step that is lowered, and what the steps before left for it.
pub(super) struct Lowering<'a> {
    target: Target,
    choose: &'a mut dyn Choose,
    launches: Vec<Launch>,
    /// ReLU masks that forward products left, by their spans.
    pub masks: HashSet<Span>,
    /// Bias gradients that input gradients left to weight gradients.
    pub deferred: HashSet<Span>,
}

impl<'a> Lowering<'a> {
    pub fn new(target: Target, choose: &'a mut dyn Choose) -> Self {
        Self { target, choose, launches: Vec::new(), masks: HashSet::new(), deferred: HashSet::new() }
    }

    /// The launches of the next step.
    pub fn step(&mut self, step: &Step) -> Result<Vec<Launch>> {
        step.op.run_on(self).with_context(|| step.label.clone())?;
        Ok(std::mem::take(&mut self.launches))
    }

    fn is_fp16(&self) -> bool {
        self.target.precision == Precision::Fp16
    }

    /// Bytes of an activation.
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

    /// A weight as products read it: rounded where the storage is.
    fn weight(&self, span: Span) -> Address {
        match span.region {
            Region::Parameters if self.is_fp16() => Address::at(Buffer::HalfParameters).plus(span.offset * 2),
            _ => self.address(span),
        }
    }

    /// The name of `kernel` in its variant for some operands, and the elements that a thread of it takes at once: 16 bytes by
    /// `<kernel>_vec` where `lengths` are all multiples of that and `spans` begin on it.
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

    /// For a kernel that covers any number of items, one for each thread at a time.
    fn launch_over(&mut self, kernel: impl Into<String>, items: usize, params: Params) -> Result<()> {
        self.launch(kernel, grid_over(items), params)
    }

    fn gemm(&mut self, gemm: Gemm<Address>) {
        if gemm.m > 0 && gemm.n > 0 {
            self.launches.push(Launch::Gemm(gemm));
        }
    }
}

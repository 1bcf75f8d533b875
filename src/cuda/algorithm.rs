//! Which algorithm every operator gets: the one asked for, the one of the run that goes on, the one that was fastest here
//! before, or the fastest of a short trial.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use anyhow::Result;
use tracing::debug;

use super::known::Known;
use super::linear::as_conv;
use super::{Cuda, direct};
use crate::ops::{Activation, Algorithm, Choice, Conv2d, GradientEpilogue, Linear, LinearForward};
use crate::shape::Window;

/// Which product of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Forward,
    BackwardWeight,
    BackwardInput,
}

/// An operator's call, as far as its speed depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Site {
    direction: Direction,
    op: Conv2d,
    batch: usize,
    linear: bool,
    /// Whether pooling, or the layer before's activation and bias, ends it; of a weight gradient, whether it is the bias's too.
    epilogue: bool,
    /// Whether the signs of a ReLU may be left, or used.
    signs: bool,
    /// Whether cuBLASLt has a product for it that ends as it should.
    by_lt: bool,
}

impl Site {
    pub fn new(direction: Direction, op: &Conv2d, batch: usize, epilogue: bool) -> Self {
        Self { direction, op: *op, batch, linear: false, epilogue, signs: false, by_lt: false }
    }

    /// The forward product of a linear layer.
    pub fn linear_forward(op: &Linear, batch: usize, spans: &LinearForward) -> Self {
        let signs = spans.signs.is_some() && spans.activation == Activation::Relu;
        Self { linear: true, signs, ..Self::new(Direction::Forward, &as_conv(op), batch, false) }
    }

    /// The weight gradient of a linear layer, with the bias gradient or without.
    pub fn linear_backward_weight(op: &Linear, batch: usize, bias: bool) -> Self {
        Self { linear: true, ..Self::new(Direction::BackwardWeight, &as_conv(op), batch, bias) }
    }

    pub fn linear_backward_input(op: &Linear, batch: usize, epilogue: Option<&GradientEpilogue>) -> Self {
        let signs = epilogue.is_some_and(|it| it.signs.is_some() && it.activation == Activation::Relu);
        let site = Self::new(Direction::BackwardInput, &as_conv(op), batch, epilogue.is_some());
        Self { linear: true, signs, ..site }
    }

    /// Whether the signs of a ReLU may be left, or used.
    pub fn has_signs(&self) -> bool {
        self.signs
    }

    pub fn or_by_lt(self, by_lt: bool) -> Self {
        Self { by_lt, ..self }
    }

    /// As in files.
    pub fn name(&self, precision: &str) -> String {
        format!("{self}, {precision}")
    }

    fn candidates(&self) -> Vec<Algorithm> {
        let mut all = vec![Algorithm::Im2col];
        if Cuda::has_implicit(&self.op, self.batch) {
            all.push(Algorithm::Implicit);
        }
        if !self.linear && self.direction != Direction::BackwardInput && direct::applies(&self.op) {
            all.push(Algorithm::Direct);
        }
        if self.by_lt {
            all.push(Algorithm::CublasLt);
        }
        all
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::BackwardWeight => "backward_weight",
            Direction::BackwardInput => "backward_input",
        };
        let Conv2d { input, out_channels, window: Window { kernel, stride, padding }, .. } = self.op;
        match self.linear {
            true => write!(f, "linear_{direction} {} to {out_channels}", input.channels)?,
            false => write!(f, "conv2d_{direction} {input} to {out_channels} k{kernel} s{stride} p{padding}")?,
        }
        write!(f, ", batch {}", self.batch)?;
        f.write_str(if self.epilogue { ", with epilogue" } else { "" })?;
        f.write_str(if self.signs { ", with signs" } else { "" })
    }
}

/// What was chosen, and from what it is chosen.
pub(super) struct Choices {
    /// The one asked for; none is the fastest.
    pub asked: Option<Algorithm>,
    /// Of the run that goes on.
    pub recorded: BTreeMap<String, Algorithm>,
    /// What was measured on this device.
    pub known: Known,
    pub chosen: HashMap<Site, Algorithm>,
    /// Forward products and weight gradients of linear layers whose choice took into account what else depends on it.
    pub settled: HashSet<Site>,
}

impl Choices {
    pub fn new(asked: Option<Algorithm>, recorded: BTreeMap<String, Algorithm>, known: Known) -> Self {
        Self { asked, recorded, known, chosen: HashMap::new(), settled: HashSet::new() }
    }

    /// The choice where nothing has to be measured for it.
    fn without_trial(&self, site: &str, candidates: &[Algorithm], toll: f64, may_try: bool) -> Option<Algorithm> {
        let possible = |algorithm: &Algorithm| candidates.contains(algorithm);
        if let Some(asked) = self.asked {
            return Some(if possible(&asked) { asked } else { instead_of(asked, candidates) });
        }
        let recorded = self.recorded.get(site).copied().filter(possible);
        let known = || Some(fastest(&self.known.times_of(site, candidates)?, toll));
        recorded.or_else(known).or_else(|| (candidates.len() == 1 || !may_try).then_some(candidates[0]))
    }
}

/// The fastest, where cuBLASLt takes `toll` microseconds longer elsewhere; the first of equals.
pub(super) fn fastest(times: &[(Algorithm, f64)], toll: f64) -> Algorithm {
    let total =
        |&(algorithm, time): &(Algorithm, f64)| if algorithm == Algorithm::CublasLt { time + toll } else { time };
    let best = times.iter().min_by(|a, b| total(a).total_cmp(&total(b)));
    best.map_or(Algorithm::Im2col, |best| best.0)
}

/// What takes the place of an algorithm that an operator does not have: cuBLAS, but beside cuBLASLt for linear layers
/// convolutions are computed in one launch.
pub(super) fn instead_of(asked: Algorithm, candidates: &[Algorithm]) -> Algorithm {
    let in_one_launch = [Algorithm::Direct, Algorithm::Implicit].into_iter().find(|it| candidates.contains(it));
    match (asked, in_one_launch) {
        (Algorithm::CublasLt, Some(algorithm)) => algorithm,
        _ => candidates[0],
    }
}

impl Cuda {
    /// Whether it matters what cuBLASLt offers.
    pub(super) fn considers_lt(&self) -> bool {
        matches!(self.choices.asked, None | Some(Algorithm::CublasLt))
    }

    /// Runs an operator by its algorithm. Where that is not chosen yet, the candidates are tried on the operator itself:
    /// running it again changes nothing.
    pub(super) fn with_algorithm(
        &mut self,
        site: Site,
        run: impl Fn(&mut Self, Algorithm) -> Result<()>,
    ) -> Result<()> {
        let algorithm = self.choose(site, 0.0, &run)?;
        run(self, algorithm)
    }

    /// The algorithm of an operator, chosen where it is not yet; `toll` is what cuBLASLt costs elsewhere, in microseconds.
    pub(super) fn choose(
        &mut self,
        site: Site,
        toll: f64,
        run: &impl Fn(&mut Self, Algorithm) -> Result<()>,
    ) -> Result<Algorithm> {
        if let Some(&algorithm) = self.choices.chosen.get(&site) {
            return Ok(algorithm);
        }
        let (name, candidates) = (self.site_name(&site), site.candidates());
        let algorithm = match self.choices.without_trial(&name, &candidates, toll, !self.capturing) {
            Some(algorithm) => algorithm,
            None => {
                let times = self.try_all(&name, &candidates, run)?;
                debug!("{name}: {times:?}");
                self.choices.known.learn(name, &times);
                fastest(&times, toll)
            }
        };
        if !self.capturing {
            self.choices.chosen.insert(site, algorithm);
        }
        Ok(algorithm)
    }

    pub(super) fn site_name(&self, site: &Site) -> String {
        site.name(self.options.precision)
    }

    pub(super) fn all_choices(&self) -> Vec<Choice> {
        let choice = |(site, &algorithm): (&Site, &Algorithm)| {
            let site = self.site_name(site);
            Choice { microseconds: self.choices.known.times(&site), site, algorithm }
        };
        let mut all: Vec<Choice> = self.choices.chosen.iter().map(choice).collect();
        all.sort_by(|a, b| a.site.cmp(&b.site));
        // Where signs were there for the trial alone, the same choice is known with and without them.
        all.dedup_by(|a, b| a.site == b.site);
        all
    }
}

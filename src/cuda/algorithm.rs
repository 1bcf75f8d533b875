//! Which algorithm every operator gets: the one asked for, the one of the run that goes on, the one that was fastest here
//! before, or the fastest of a short trial.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::Result;
use tracing::debug;

use super::known::Known;
use super::{Cuda, direct};
use crate::ops::{Algorithm, Choice, Conv2d};
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
    /// Whether pooling, or the layer before's activation and bias, ends it.
    epilogue: bool,
    /// Whether cuBLASLt has a product for it that ends as it should.
    by_lt: bool,
}

impl Site {
    pub fn new(direction: Direction, op: &Conv2d, batch: usize, epilogue: bool) -> Self {
        Self { direction, op: *op, batch, linear: false, epilogue, by_lt: false }
    }

    pub fn linear(direction: Direction, op: &Conv2d, batch: usize, epilogue: bool) -> Self {
        Self { linear: true, ..Self::new(direction, op, batch, epilogue) }
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
        match self.epilogue {
            true => f.write_str(", with epilogue"),
            false => Ok(()),
        }
    }
}

/// What was chosen, and from what it is chosen.
pub(super) struct Choices {
    /// The one asked for; none is the fastest.
    asked: Option<Algorithm>,
    /// Of the run that goes on.
    recorded: BTreeMap<String, Algorithm>,
    /// What was measured on this device.
    pub known: Known,
    chosen: HashMap<Site, Algorithm>,
}

impl Choices {
    pub fn new(asked: Option<Algorithm>, recorded: BTreeMap<String, Algorithm>, known: Known) -> Self {
        Self { asked, recorded, known, chosen: HashMap::new() }
    }

    /// The choice where nothing has to be measured for it.
    fn without_trial(&self, site: &str, candidates: &[Algorithm], may_try: bool) -> Option<Algorithm> {
        let possible = |algorithm: &Algorithm| candidates.contains(algorithm);
        if let Some(asked) = self.asked {
            return Some(if possible(&asked) { asked } else { candidates[0] });
        }
        let recorded = self.recorded.get(site).copied().filter(possible);
        let known = || self.known.fastest(site, candidates);
        recorded.or_else(known).or_else(|| (candidates.len() == 1 || !may_try).then_some(candidates[0]))
    }
}

impl Cuda {
    /// Runs an operator by its algorithm. Where that is not chosen yet, the candidates are tried on the operator itself:
    /// running it again changes nothing.
    pub(super) fn with_algorithm(
        &mut self,
        site: Site,
        run: impl Fn(&mut Self, Algorithm) -> Result<()>,
    ) -> Result<()> {
        if let Some(&algorithm) = self.choices.chosen.get(&site) {
            return run(self, algorithm);
        }
        let (name, candidates) = (self.site_name(&site), site.candidates());
        let algorithm = match self.choices.without_trial(&name, &candidates, !self.capturing) {
            Some(algorithm) => algorithm,
            None => {
                let times = self.try_all(&candidates, &run)?;
                debug!("{name}: {times:?}");
                self.choices.known.learn(name, times)
            }
        };
        if !self.capturing {
            self.choices.chosen.insert(site, algorithm);
        }
        run(self, algorithm)
    }

    fn site_name(&self, site: &Site) -> String {
        site.name(self.options.precision)
    }

    pub(super) fn all_choices(&self) -> Vec<Choice> {
        let choice = |(site, &algorithm): (&Site, &Algorithm)| {
            let site = self.site_name(site);
            Choice { microseconds: self.choices.known.times(&site), site, algorithm }
        };
        let mut all: Vec<Choice> = self.choices.chosen.iter().map(choice).collect();
        all.sort_by(|a, b| a.site.cmp(&b.site));
        all
    }
}

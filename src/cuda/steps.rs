//! Several training steps in one graph, where that measures faster: between two graphs a device has nothing to do.
//!
//! All that a step needs is in device memory, so such a graph is a step's launches, several times over. What is compared
//! are steps of the run itself, by events; the host waits for the last of them, twice in a run, and launches on.

use std::mem::replace;

use anyhow::Result;
use cudarc::driver::CudaEvent;
use tracing::{debug, warn};

use super::trial::elapsed_microseconds;
use super::{Cuda, error};
use crate::ops::{GraphSteps, Recording};

/// Steps of a graph that is tried.
const STEPS: usize = 16;

/// Microseconds that such a graph may take: for so long nobody is asked whether the run shall go on.
const LONGEST: f64 = 4000.0;

/// Microseconds of a step of which no hundredth can be saved: what lies between two graphs is less.
const LONG_STEP: f64 = 1000.0;

/// How much less time a graph of several steps must take to be worth it.
const WORTH_IT: f64 = 0.99;

/// Rounds of a comparison; the medians count.
const ROUNDS: usize = 3;

/// How many training steps are one graph.
pub(super) enum Grouping {
    Comparing(Trial),
    Settled(usize),
}

/// Rounds of: a graph of several steps, so that the device has work while it is handed what follows; a mark; single steps;
/// a mark; such a graph again; a mark. Nothing else comes between the parts of a round, but anything may between two rounds.
pub(super) struct Trial {
    /// Steps of the graph; one, while it is to be seen how many are sensible.
    group: usize,
    /// Of the round at hand, what was handed out already.
    turn: usize,
    marks: Vec<CudaEvent>,
}

impl Grouping {
    pub fn new(wanted: GraphSteps) -> Self {
        match wanted {
            GraphSteps::Auto => Self::Comparing(Trial::of(1)),
            GraphSteps::Count(steps) => Self::Settled(steps.max(1)),
        }
    }

    pub fn compares(&self) -> bool {
        matches!(self, Self::Comparing(_))
    }
}

impl Trial {
    fn of(group: usize) -> Self {
        Self { group, turn: 0, marks: Vec::new() }
    }

    /// Single steps of a round.
    fn singles(&self) -> usize {
        if self.group == 1 { STEPS } else { self.group }
    }

    /// Whether all rounds were handed out.
    fn is_over(&self) -> bool {
        let rounds = if self.group == 1 { 1 } else { ROUNDS };
        self.marks.len() == 3 * rounds
    }

    /// The next steps of a round, which begins where `left` steps are enough for all of it, and for one after its last mark.
    fn next(&mut self, cuda: &Cuda, left: u64) -> Result<usize> {
        let singles = self.singles();
        if self.turn == 0 && left <= (singles + 2 * self.group) as u64 {
            return Ok(1);
        }
        let turn = self.turn;
        self.turn += 1;
        if turn == 1 || turn > singles {
            self.marks.push(cuda.mark()?);
        }
        if turn == singles + 2 {
            self.turn = 0;
            return Ok(1);
        }
        Ok(if turn == 0 || turn > singles { self.group } else { 1 })
    }

    /// Microseconds of a step by itself and of one in a graph of several. It waits until the device has come so far: a host
    /// that launches on is an epoch ahead by then.
    fn times(&self) -> Result<(f64, f64)> {
        let median = |from: usize, steps: usize| -> Result<f64> {
            let rounds = self.marks.chunks_exact(3);
            let times = rounds.map(|marks| elapsed_microseconds(&marks[from], &marks[from + 1]));
            let mut times = times.collect::<Result<Vec<f64>>>()?;
            times.sort_by(f64::total_cmp);
            Ok(times[times.len() / 2] / steps as f64)
        };
        Ok((median(0, self.singles())?, median(1, self.group)?))
    }

    /// What follows from the times.
    fn settle(&self, (single, grouped): (f64, f64)) -> Grouping {
        if self.group == 1 {
            let group = ((LONGEST / single.max(1.0)) as usize).min(STEPS);
            return if single < LONG_STEP { Grouping::Comparing(Self::of(group)) } else { Grouping::Settled(1) };
        }
        debug!("a training step takes {single:.1} µs, one of {} in a graph {grouped:.1} µs", self.group);
        Grouping::Settled(if grouped < WORTH_IT * single { self.group } else { 1 })
    }
}

impl Cuda {
    /// Whether steps are recorded, and need nothing of the host between them.
    pub(super) fn may_group(&self) -> bool {
        self.options.graphs && !self.gather.streams()
    }

    /// See [`Backend::steps_at_once`](crate::ops::Backend::steps_at_once). The first steps are single: they are under way
    /// before several are recorded, which takes the host longer.
    pub(super) fn next_steps(&mut self, batch: usize, left: u64) -> Result<usize> {
        if left == 0 || !self.may_group() || self.graphs.nodes(Recording::train_step(batch)).is_none() {
            return Ok(1);
        }
        let mut grouping = replace(&mut self.grouping, Grouping::Settled(1));
        let mut steps = 1;
        match &mut grouping {
            Grouping::Settled(several) if *several as u64 <= left => steps = *several,
            Grouping::Settled(_) => {}
            Grouping::Comparing(trial) if !trial.is_over() => steps = trial.next(self, left)?,
            Grouping::Comparing(trial) => {
                let (tried, settled) = (trial.group, trial.settle(trial.times()?));
                if tried > 1 && matches!(settled, Grouping::Settled(1)) {
                    self.graphs.forget(Recording::TrainSteps { batch, steps: tried });
                }
                grouping = settled;
            }
        }
        self.grouping = grouping;
        Ok(steps)
    }

    /// After several steps could not be recorded: from now on each is a graph, and the books have again what was recorded.
    pub(super) fn give_up_grouping(&mut self, error: &anyhow::Error) -> Result<()> {
        // A device that has failed is not to blame on the graph.
        self.stream.synchronize().map_err(error::driver)?;
        warn!("several training steps cannot be one graph, so each is one: {error:#}");
        self.grouping = Grouping::Settled(1);
        let mut gathers = std::mem::take(&mut self.graphs.gathers).into_iter();
        gathers.try_for_each(|(subset, batch)| self.gather.give_back(subset, batch))
    }
}

//! Chooses the algorithm and tile of every convolution and linear layer: those requested, those of the resumed run, or
//! the fastest, by times from the cache or measured now on the launches as they will run.

mod cache;
mod choose;

pub(super) use choose::{DevicelessChoice, TunerChoice};

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use tracing::{debug, warn};

use super::driver::error;
use super::lower::{Lowering, Target};
use super::memory::Memory;
use super::program::Launch;
use super::run::{self, Runner};
use crate::ops::{Algorithm, Candidate, Choice, LinearForward, Op, Span, Step};
use cache::TuningCache;
use choose::{Trial, fastest, recorded_candidate};

/// The choices made so far, and what they are based on.
pub(super) struct Tuner {
    /// The candidate for all sites; `None` selects the fastest for each.
    requested: Option<Candidate>,
    /// Names of the resumed run's choices, by site name.
    recorded: BTreeMap<String, String>,
    cache: TuningCache,
    /// Choices of this run, by site name.
    chosen: BTreeMap<String, Candidate>,
}

impl Tuner {
    /// `identity` identifies everything besides the operator that measured times depend on.
    pub fn new(
        requested: Option<Candidate>,
        recorded: BTreeMap<String, String>,
        identity: impl FnOnce() -> Result<String>,
    ) -> Result<Self> {
        let cache = if requested.is_some() { TuningCache::default() } else { TuningCache::load(identity()?) };
        Ok(Self { requested, recorded, cache, chosen: BTreeMap::new() })
    }

    /// All choices since the last [`Tuner::forget`], sorted by site name.
    pub fn choices(&self) -> Vec<Choice> {
        let choice = |(site, &candidate): (&String, &Candidate)| {
            let microseconds = self.cache.times(site);
            Choice { site: site.clone(), candidate, microseconds }
        };
        self.chosen.iter().map(choice).collect()
    }

    /// Clears the choices for a new plan; keeps the measured times.
    pub fn forget(&mut self) {
        self.chosen.clear();
    }

    /// Warns, once, if the resumed run recorded another choice for this site: one that this program or device lacks.
    fn warn_if_not_recorded(&mut self, site: &str, chosen: Candidate, candidates: &[Candidate]) {
        let Some(name) = self.recorded.get(site) else { return };
        if recorded_candidate(name, candidates) != Some(chosen) {
            warn!(
                "{site}: the algorithm {name:?}, which the run used, cannot be used by this program on this device; \
                 {chosen} takes its place, so the results of the resumed run will differ in their last bits"
            );
            self.recorded.remove(site);
        }
    }

    /// Chooses the candidates of a sequence, measuring those that are not in the cache. Measuring overwrites the steps'
    /// outputs with arbitrary values.
    pub fn tune(&mut self, runner: &Runner, memory: &Memory, target: Target, steps: &[Step]) -> Result<()> {
        if self.requested.is_some() {
            return Ok(());
        }
        let mut grouped: BTreeSet<usize> = BTreeSet::new();
        let mut measure = Measure { tuner: self, runner, memory, target };
        for (index, step) in steps.iter().enumerate() {
            if let Some(group) = Group::starting_at(steps, index) {
                measure.choose_together(steps, &group)?;
                grouped.extend([group.forward, group.input_gradient].into_iter().chain(group.weight_gradient));
            } else if !grouped.contains(&index)
                && let Some(Timed { site, times }) = measure.time_candidates(step, CarriedState::default())?
            {
                let (candidate, _) = fastest(&site, &times)?;
                measure.tuner.chosen.insert(site, candidate);
            }
        }
        self.cache.save();
        Ok(())
    }
}

/// Steps of a linear layer that must be chosen together, by their indices. With cuBLASLt, the forward product writes a
/// ReLU mask, which lets the input gradient of the next layer apply the ReLU's gradient; with 16-bit storage that input
/// gradient defers the bias gradient to the layer's weight gradient. A choice that is faster for one step may slow down
/// another by more.
struct Group {
    forward: usize,
    /// The input gradient of the next layer.
    input_gradient: usize,
    /// The weight gradient of the layer itself.
    weight_gradient: Option<usize>,
    mask: Span,
    d_bias: Option<Span>,
}

impl Group {
    fn starting_at(steps: &[Step], forward: usize) -> Option<Self> {
        let Op::LinearForward(LinearForward { relu_mask: Some(mask), .. }) = steps[forward].op else { return None };
        let uses = |step: &Step| match &step.op {
            Op::LinearBackwardInput(input) => input.epilogue.filter(|it| it.relu_mask == Some(mask)),
            _ => None,
        };
        let (input_gradient, epilogue) =
            (forward..steps.len()).find_map(|index| Some((index, uses(&steps[index])?)))?;
        let d_bias = epilogue.d_bias;
        let sums = |op: &Op| matches!(op, Op::LinearBackwardWeight(weight) if weight.d_bias.is_some() && weight.d_bias == d_bias);
        let weight_gradient = (forward..steps.len()).find(|&index| sums(&steps[index].op));
        Some(Self { forward, input_gradient, weight_gradient, mask, d_bias })
    }
}

/// Results of earlier steps that affect how a step is lowered.
#[derive(Clone, Copy, Default)]
struct CarriedState {
    /// The ReLU mask that the forward product wrote.
    mask: Option<Span>,
    /// The bias gradient that the input gradient deferred.
    deferred: Option<Span>,
}

/// The candidates that work for a step, at least one, each with its time in microseconds.
struct Timed {
    site: String,
    times: Vec<(Candidate, f64)>,
}

impl Timed {
    /// The fastest candidate by cuBLASLt and the fastest other one, if there are any. How the other steps of a group are
    /// lowered depends only on whether cuBLASLt computes this one.
    fn by_library(&self) -> impl Iterator<Item = (Candidate, f64)> {
        [false, true].into_iter().filter_map(|by_lt| {
            let is_kind = |(it, _): &&(Candidate, f64)| (it.algorithm == Algorithm::CublasLt) == by_lt;
            let times: Vec<_> = self.times.iter().filter(is_kind).copied().collect();
            fastest(&self.site, &times).ok()
        })
    }
}

struct Measure<'a> {
    tuner: &'a mut Tuner,
    runner: &'a Runner,
    memory: &'a Memory,
    target: Target,
}

impl Measure<'_> {
    /// Chooses the compatible combination with the least total time; the first if several are equally fast.
    fn choose_together(&mut self, steps: &[Step], group: &Group) -> Result<()> {
        let mut best: Option<(f64, Vec<(String, Candidate)>)> = None;
        let forward = self.time_in_group(&steps[group.forward], CarriedState::default())?;
        for (first, first_time) in forward.by_library() {
            let mask = (first.algorithm == Algorithm::CublasLt).then_some(group.mask);
            let input = self.time_in_group(&steps[group.input_gradient], CarriedState { mask, deferred: None })?;
            for (second, second_time) in input.by_library() {
                let defers = second.algorithm == Algorithm::CublasLt && self.target.precision.is_16_bit();
                let carried = CarriedState { mask, deferred: group.d_bias.filter(|_| defers) };
                let mut chosen = vec![(forward.site.clone(), first), (input.site.clone(), second)];
                let mut total = first_time + second_time;
                if let Some(index) = group.weight_gradient {
                    let Timed { site, times } = self.time_in_group(&steps[index], carried)?;
                    let (third, time) = fastest(&site, &times)?;
                    chosen.push((site, third));
                    total += time;
                }
                if best.as_ref().is_none_or(|(least, _)| total < *least) {
                    best = Some((total, chosen));
                }
            }
        }
        let (_, chosen) = best.with_context(|| format!("{}: no algorithm is available", forward.site))?;
        self.tuner.chosen.extend(chosen);
        Ok(())
    }

    fn time_in_group(&mut self, step: &Step, carried: CarriedState) -> Result<Timed> {
        self.time_candidates(step, carried)?.with_context(|| format!("{} does not choose an algorithm", step.label))
    }

    /// The times of a step's candidates, measured if they are not cached; `None` if the step does not choose an
    /// algorithm. If the resumed run or an earlier program has chosen one, it is the only candidate, because a run must
    /// compute a site in one way throughout.
    fn time_candidates(&mut self, step: &Step, carried: CarriedState) -> Result<Option<Timed>> {
        let mut trial = Trial { runner: self.runner, candidate: None, query: None };
        self.lower(step, carried, &mut trial)?;
        let Some((site, candidates)) = trial.query else { return Ok(None) };
        let recorded = self.tuner.recorded.get(&site).and_then(|name| recorded_candidate(name, &candidates));
        let chosen = || self.tuner.chosen.get(&site).copied().filter(|chosen| candidates.contains(chosen));
        let only = if let [only] = candidates[..] { Some(only) } else { recorded.or_else(chosen) };
        let times = match only {
            Some(only) => vec![(only, 0.0)],
            None => self.measure_candidates(step, carried, &site, &candidates)?,
        };
        Ok(Some(Timed { site, times }))
    }

    /// The times of every candidate that works, in the order of `candidates`, so that ties are resolved in the same way
    /// whether the times are new or cached. A candidate that fails is logged and skipped: libraries may propose an
    /// algorithm and then reject it. Later starts skip it too, unless the error is transient.
    ///
    /// # Errors
    /// If all candidates fail: the first error.
    fn measure_candidates(
        &mut self,
        step: &Step,
        carried: CarriedState,
        site: &str,
        candidates: &[Candidate],
    ) -> Result<Vec<(Candidate, f64)>> {
        let cached = |cache: &TuningCache| {
            let time = |&candidate: &Candidate| Some((candidate, cache.get(site, candidate)??));
            candidates.iter().filter_map(time).collect::<Vec<_>>()
        };
        let mut new = candidates.to_vec();
        new.retain(|&candidate| self.tuner.cache.get(site, candidate).is_none());
        if new.is_empty() && cached(&self.tuner.cache).is_empty() {
            new.extend(candidates); // all failed at earlier starts; try them again, since one is needed
        }
        if !new.is_empty() {
            run::check_operands(self.memory, step)?;
        }
        let (mut measured, mut failed) = (Vec::new(), None);
        for candidate in new {
            let mut trial = Trial { runner: self.runner, candidate: Some(candidate), query: None };
            let launches = self.lower(step, carried, &mut trial)?;
            match run::time(self.runner, self.memory, &launches) {
                Ok(timed) => {
                    let microseconds = timed.seconds * 1e6;
                    self.tuner.cache.record(site, candidate, Some(microseconds));
                    measured.push(format!("{candidate} {microseconds:.1} µs"));
                }
                Err(error) => {
                    match error.is::<error::Unsupported>() {
                        true => debug!("{site}: {candidate} is skipped: {error:#}"),
                        false => warn!("{site}: {candidate} failed and is skipped: {error:#}"),
                    }
                    if !error::is_transient(&error) {
                        self.tuner.cache.record(site, candidate, None);
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        if !measured.is_empty() {
            debug!("{site}: {}", measured.join(", "));
        }
        let times = cached(&self.tuner.cache);
        match failed {
            Some(error) if times.is_empty() => Err(error),
            _ => Ok(times),
        }
    }

    fn lower(&self, step: &Step, carried: CarriedState, trial: &mut Trial) -> Result<Vec<Launch>> {
        let mut lowering = Lowering::new(self.target, trial);
        lowering.masks.extend(carried.mask);
        lowering.deferred.extend(carried.deferred);
        lowering.step(step)
    }
}

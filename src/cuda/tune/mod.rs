//! Which algorithm every convolution and linear layer gets: the one asked for, the one of the resumed run, the one that was
//! fastest here before, or the fastest that is measured now, as it will be run.

mod cache;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use tracing::{debug, warn};

use super::gemm::{Gemm, LtEpilogue};
use super::lower::{Choose, Lowering, Site, Target};
use super::memory::Memory;
use super::program::{Address, Launch};
use super::run::{self, Runner};
use crate::ops::{Algorithm, Choice, Op, Span, Step};
use cache::TuningCache;

/// What was chosen, and from what it is chosen.
pub(super) struct Tuner {
    /// The one asked for; none is the fastest.
    asked: Option<Algorithm>,
    /// Of the resumed run.
    recorded: BTreeMap<String, Algorithm>,
    cache: TuningCache,
    /// By the site's name.
    chosen: BTreeMap<String, Algorithm>,
}

impl Tuner {
    /// `identity` names what measured times depend on besides the operator.
    pub fn new(
        asked: Option<Algorithm>,
        recorded: BTreeMap<String, Algorithm>,
        identity: impl FnOnce() -> Result<String>,
    ) -> Result<Self> {
        let cache = if asked.is_some() { TuningCache::default() } else { TuningCache::load(identity()?) };
        Ok(Self { asked, recorded, cache, chosen: BTreeMap::new() })
    }

    /// All choices, in the order of their names.
    pub fn choices(&self) -> Vec<Choice> {
        let choice = |(site, &algorithm): (&String, &Algorithm)| {
            let microseconds = self.cache.times(site);
            Choice { site: site.clone(), algorithm, microseconds }
        };
        self.chosen.iter().map(choice).collect()
    }

    /// Makes the choices of a sequence, measuring what is not known. It leaves anything in what the steps write.
    pub fn tune(&mut self, runner: &Runner, memory: &Memory, target: Target, steps: &[Step]) -> Result<()> {
        if self.asked.is_some() {
            return Ok(());
        }
        let mut grouped: BTreeSet<usize> = BTreeSet::new();
        let mut measure = Measure { tuner: self, runner, memory, target };
        for (index, step) in steps.iter().enumerate() {
            if let Some(group) = Group::beginning_with(steps, index) {
                measure.choose_together(&group)?;
                grouped.extend(group.indices);
            } else if !grouped.contains(&index) {
                measure.choose_alone(step)?;
            }
        }
        self.cache.save();
        Ok(())
    }
}

/// A linear layer's steps whose choices depend on one another: by cuBLASLt its forward product leaves a mask for the input
/// gradient that goes back through its ReLU, and in fp16 that one leaves the bias gradient to the layer's weight gradient.
/// What one of them saves may cost another more.
struct Group<'a> {
    /// Forward product, input gradient of the layer behind, weight gradient where there is one.
    steps: Vec<&'a Step>,
    indices: Vec<usize>,
    mask: Span,
    d_bias: Option<Span>,
}

impl<'a> Group<'a> {
    fn beginning_with(steps: &'a [Step], first: usize) -> Option<Self> {
        let Op::LinearForward(forward) = &steps[first].op else { return None };
        let mask = forward.relu_mask?;
        let find = |matches: &dyn Fn(&Op) -> bool| (first..steps.len()).find(|&index| matches(&steps[index].op));
        let uses = |op: &Op| match op {
            Op::LinearBackwardInput(input) => input.epilogue.is_some_and(|it| it.relu_mask == Some(mask)),
            _ => false,
        };
        let input = find(&uses)?;
        let d_bias = match &steps[input].op {
            Op::LinearBackwardInput(input) => input.epilogue.and_then(|it| it.d_bias),
            _ => None,
        };
        let sums = |op: &Op| matches!(op, Op::LinearBackwardWeight(weight) if weight.d_bias.is_some() && weight.d_bias == d_bias);
        let indices: Vec<usize> = [Some(first), Some(input), find(&sums)].into_iter().flatten().collect();
        Some(Self { steps: indices.iter().map(|&index| &steps[index]).collect(), indices, mask, d_bias })
    }
}

/// What earlier steps left for the one that is measured.
#[derive(Clone, Copy, Default)]
struct Before {
    mask: Option<Span>,
    deferred: Option<Span>,
}

/// A step's algorithms, each with its time in microseconds.
struct Timed {
    site: String,
    times: Vec<(Algorithm, f64)>,
}

struct Measure<'a> {
    tuner: &'a mut Tuner,
    runner: &'a Runner,
    memory: &'a Memory,
    target: Target,
}

impl Measure<'_> {
    fn choose_alone(&mut self, step: &Step) -> Result<()> {
        if let Some(Timed { site, times }) = self.timed(step, Before::default())? {
            self.tuner.chosen.insert(site, fastest(&times).0);
        }
        Ok(())
    }

    /// Of all combinations that fit together, the one of the least time; the first of equals.
    fn choose_together(&mut self, group: &Group) -> Result<()> {
        let mut best: Option<(f64, Vec<(String, Algorithm)>)> = None;
        let Some(forward) = self.timed(group.steps[0], Before::default())? else { return Ok(()) };
        for &(first, first_time) in &forward.times {
            let mask = (first == Algorithm::CublasLt).then_some(group.mask);
            let Some(input) = self.timed(group.steps[1], Before { mask, deferred: None })? else { return Ok(()) };
            for &(second, second_time) in &input.times {
                let defers = second == Algorithm::CublasLt && self.target.precision == crate::ops::Precision::Fp16;
                let before = Before { mask, deferred: group.d_bias.filter(|_| defers) };
                let mut chosen = vec![(forward.site.clone(), first), (input.site.clone(), second)];
                let mut total = first_time + second_time;
                if let Some(step) = group.steps.get(2)
                    && let Some(Timed { site, times }) = self.timed(step, before)?
                {
                    let (third, time) = fastest(&times);
                    chosen.push((site, third));
                    total += time;
                }
                if best.as_ref().is_none_or(|(least, _)| total < *least) {
                    best = Some((total, chosen));
                }
            }
        }
        self.tuner.chosen.extend(best.map(|(_, chosen)| chosen).unwrap_or_default());
        Ok(())
    }

    /// The times of a step's candidates, measured where they are not known; nothing where it has no choice. What the resumed
    /// run or an earlier program of this one has chosen is the only candidate: a site is computed one way in a run.
    fn timed(&mut self, step: &Step, before: Before) -> Result<Option<Timed>> {
        let Some((site, candidates)) = self.candidates(step, before)? else { return Ok(None) };
        let settled = [&self.tuner.recorded, &self.tuner.chosen].map(|choices| choices.get(&site).copied());
        if let Some(settled) = settled.into_iter().flatten().find(|settled| candidates.contains(settled)) {
            return Ok(Some(Timed { site, times: vec![(settled, 0.0)] }));
        }
        if let [only] = candidates[..] {
            return Ok(Some(Timed { site, times: vec![(only, 0.0)] }));
        }
        let mut times = self.tuner.cache.times(&site);
        times.retain(|(algorithm, _)| candidates.contains(algorithm));
        let is_new = |algorithm: &Algorithm| times.iter().all(|(known, _)| known != algorithm);
        let new: Vec<Algorithm> = candidates.iter().copied().filter(is_new).collect();
        if !new.is_empty() {
            let measured = self.measure(step, before, &site, &new, times.is_empty())?;
            debug!("{site}: {measured:?}");
            self.tuner.cache.learn(&site, &measured);
            times.extend(measured);
        }
        // The first of equals is the fastest, and the same whether it was measured now or before.
        times.sort_by_key(|(algorithm, _)| candidates.iter().position(|candidate| candidate == algorithm));
        Ok(Some(Timed { site, times }))
    }

    /// Every candidate that works. One that fails is logged and skipped: libraries propose what they then refuse, and there
    /// are others.
    ///
    /// # Errors
    /// Where all fail and one of them is `needed`, the first's.
    fn measure(
        &self,
        step: &Step,
        before: Before,
        site: &str,
        candidates: &[Algorithm],
        needed: bool,
    ) -> Result<Vec<(Algorithm, f64)>> {
        run::check(self.memory, step)?;
        let (mut times, mut failed) = (Vec::new(), None);
        for &algorithm in candidates {
            let launches = self.lower(step, before, &mut Always { algorithm, runner: self.runner })?;
            match run::time(self.runner, self.memory, &launches) {
                Ok(timed) => times.push((algorithm, timed.seconds * 1e6)),
                Err(error) => {
                    warn!("{site} fails by {} and is computed otherwise: {error:#}", algorithm.name());
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if times.is_empty() && needed => Err(error),
            _ => Ok(times),
        }
    }

    fn candidates(&self, step: &Step, before: Before) -> Result<Option<(String, Vec<Algorithm>)>> {
        let mut asked = Asked { site: None, runner: self.runner };
        self.lower(step, before, &mut asked)?;
        Ok(asked.site)
    }

    fn lower(&self, step: &Step, before: Before, choose: &mut dyn Choose) -> Result<Vec<Launch>> {
        let mut lowering = Lowering::new(self.target, choose);
        lowering.masks.extend(before.mask);
        lowering.deferred.extend(before.deferred);
        lowering.step(step)
    }
}

fn fastest(times: &[(Algorithm, f64)]) -> (Algorithm, f64) {
    times.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((Algorithm::Gemm, 0.0))
}

/// Whether cuBLASLt computes a product of these places: of their addresses only the alignment counts.
fn offers(runner: &Runner, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
    let aligned = |address: Address| Ok::<u64, std::convert::Infallible>(address.parts().map_or(0, |(_, at)| at | 256));
    let (Ok(gemm), Ok(epilogue)) = (gemm.resolved(&aligned), epilogue.resolved(&aligned));
    runner.blas.lt_offers(&gemm, &epilogue)
}

/// Notes what it is asked.
struct Asked<'a> {
    site: Option<(String, Vec<Algorithm>)>,
    runner: &'a Runner,
}

impl Choose for Asked<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        self.site = Some((site.to_string(), candidates.to_vec()));
        candidates[0]
    }

    fn offers(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        offers(self.runner, gemm, epilogue)
    }
}

/// Chooses one algorithm, which must be a candidate.
struct Always<'a> {
    algorithm: Algorithm,
    runner: &'a Runner,
}

impl Choose for Always<'_> {
    fn choose(&mut self, _site: &Site, _candidates: &[Algorithm]) -> Algorithm {
        self.algorithm
    }

    fn offers(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        offers(self.runner, gemm, epilogue)
    }
}

/// Chooses as the tuner has, and notes what was asked for.
pub(super) struct Chosen<'a> {
    pub tuner: &'a mut Tuner,
    pub runner: &'a Runner,
}

impl Choose for Chosen<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        let name = site.to_string();
        let algorithm = match self.tuner.asked {
            Some(asked) => asked_or_instead(asked, candidates),
            None => {
                let chosen = self.tuner.chosen.get(&name).copied().filter(|it| candidates.contains(it));
                chosen.unwrap_or(candidates[0])
            }
        };
        self.tuner.chosen.insert(name, algorithm);
        algorithm
    }

    fn offers(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        matches!(self.tuner.asked, None | Some(Algorithm::CublasLt)) && offers(self.runner, gemm, epilogue)
    }
}

/// Chooses without a device: what is asked for or recorded, else the fewest launches.
pub(super) struct WithoutDevice<'a> {
    pub asked: Option<Algorithm>,
    pub recorded: &'a BTreeMap<String, Algorithm>,
}

impl Choose for WithoutDevice<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        let recorded = self.recorded.get(&site.to_string()).copied().filter(|it| candidates.contains(it));
        recorded.unwrap_or_else(|| match self.asked {
            Some(asked) => asked_or_instead(asked, candidates),
            None => in_one_launch(candidates).unwrap_or(candidates[0]),
        })
    }

    fn offers(&mut self, _gemm: &Gemm<Address>, _epilogue: &LtEpilogue<Address>) -> bool {
        self.asked == Some(Algorithm::CublasLt) || !self.recorded.is_empty()
    }
}

/// The algorithm asked for, or what takes its place where an operator does not have it: cuBLAS, but of convolutions with
/// cuBLASLt for linear layers, one launch.
fn asked_or_instead(asked: Algorithm, candidates: &[Algorithm]) -> Algorithm {
    match (asked, in_one_launch(candidates)) {
        _ if candidates.contains(&asked) => asked,
        (Algorithm::CublasLt, Some(algorithm)) => algorithm,
        _ => candidates[0],
    }
}

fn in_one_launch(candidates: &[Algorithm]) -> Option<Algorithm> {
    [Algorithm::Direct, Algorithm::Implicit].into_iter().find(|it| candidates.contains(it))
}

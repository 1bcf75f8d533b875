//! A program's steps, timed one by one.

use std::time::Instant;

use anyhow::{Context, Result};

use super::{Cost, Plan};
use crate::ops::{Backend, LossScale, Metrics, Region, Sgd, Span, Step};

/// When one step began, counted from the first, and how long it took.
#[derive(Clone, Debug)]
pub struct StepTime {
    pub label: String,
    pub start: f64,
    pub seconds: f64,
    pub cost: Cost,
}

/// Every step of a training step's program timed, in order: by events on a device that works on its own, where steps
/// follow one another as if nothing lay between, else on the host's clock.
///
/// Weights, optimiser state, metrics and loss scale are afterwards what they were before. The order of the images is used
/// up: it must have [`TIMED_RUNS`](crate::ops::TIMED_RUNS) batches.
pub fn profile_step<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    sgd: &Sgd,
    steps: &[Step],
    program: &mut B::Program,
) -> Result<Vec<StepTime>> {
    let kept = Kept::of(backend, plan, sgd)?;
    let mut times: Vec<StepTime> = Vec::new();
    let beginning = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        let begun = beginning.elapsed().as_secs_f64();
        let seconds = time_step(backend, step, program, index).with_context(|| step.label.clone())?;
        let after_last = times.last().map_or(0.0, |last| last.start + last.seconds);
        let start = if backend.is_asynchronous() { after_last } else { begun };
        times.push(StepTime { label: step.label.clone(), start, seconds, cost: Cost::of(&step.op) });
    }
    kept.give_back(backend)?;
    Ok(times)
}

/// The time of a step. What it changes in place is put back where it was run several times, so that the steps after it see
/// what they would in a training step.
fn time_step<B: Backend>(backend: &mut B, step: &Step, program: &mut B::Program, index: usize) -> Result<f64> {
    let (reads, writes) = (step.op.operands().reads(), step.op.operands().writes());
    let in_place = |read: &&Span| writes.contains(read) && matches!(read.region, Region::Arena);
    let in_place: Vec<Span> =
        if backend.is_asynchronous() { reads.iter().filter(in_place).copied().collect() } else { Vec::new() };
    let before = in_place.iter().map(|&span| backend.read(span)).collect::<Result<Vec<_>>>()?;
    let timed = backend.time_step(program, index)?;
    if timed.runs > 1 && !in_place.is_empty() {
        in_place.iter().zip(&before).try_for_each(|(&span, values)| backend.write(span, values))?;
        let mut once = backend.compile(vec![step.clone()])?;
        backend.run(&mut once)?;
    }
    Ok(timed.seconds)
}

/// What outlives a step.
struct Kept {
    regions: Vec<(Span, Vec<f32>)>,
    metrics: Metrics,
    loss_scale: Option<LossScale>,
}

impl Kept {
    fn of<B: Backend>(backend: &mut B, plan: &Plan, sgd: &Sgd) -> Result<Self> {
        let momentum = (sgd.momentum != 0.0).then_some(Region::Momentum);
        let average = sgd.average_decay.map(|_| Region::Average);
        let of_parameters = [Some(Region::Parameters), momentum, average].into_iter().flatten();
        let sized = of_parameters.map(|region| (region, plan.parameter_count));
        let sized = sized.chain([(Region::Statistics, plan.memory_sizes(false).statistics)]);
        let spans = sized.map(|(region, len)| Span::new(region, 0, len));
        let regions = spans.map(|span| Ok((span, backend.read(span)?))).collect::<Result<_>>()?;
        Ok(Self { regions, metrics: backend.read_metrics()?, loss_scale: backend.loss_scale()? })
    }

    fn give_back<B: Backend>(&self, backend: &mut B) -> Result<()> {
        self.regions.iter().try_for_each(|(span, values)| backend.write(*span, values))?;
        backend.set_metrics(self.metrics)?;
        self.loss_scale.map_or(Ok(()), |loss_scale| backend.set_loss_scale(loss_scale))
    }
}

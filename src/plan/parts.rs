//! An optimiser step part by part: the gather, the plan's steps, the loss and the update, one after the other.

use std::time::Instant;

use anyhow::{Context, Result};

use super::cost::{gather_cost, loss_cost, update_cost};
use super::execute::run_step;
use super::{Cost, Plan, Step};
use crate::ops::{Backend, LossScale, Metrics, Recording, Region, Sgd, Span, Subset};

/// One part.
pub struct Part<'a> {
    pub label: &'a str,
    pub cost: Cost,
    /// Of the plan's steps.
    pub step: Option<&'a Step>,
}

/// What a part does on its backend.
pub type Body<'a, B> = dyn FnMut(&mut B) -> Result<()> + Send + 'a;

/// Runs one optimiser step, giving each of its parts to `visit`, which is to call its body.
pub fn each_part<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    sgd: &Sgd,
    batch: usize,
    mut visit: impl FnMut(&mut B, Part, &mut Body<B>) -> Result<()>,
) -> Result<()> {
    let alone = |label, cost| Part { label, cost, step: None };
    visit(backend, alone("gather", gather_cost(plan, batch)), &mut |b| {
        b.gather_normalise(Subset::Train, batch, plan.input)
    })?;
    for step in &plan.forward {
        let part = Part { label: &step.label, cost: step.kind.cost(plan, batch), step: Some(step) };
        visit(backend, part, &mut |b| run_step(b, plan, &step.kind, batch)).with_context(|| step.label.clone())?;
    }
    visit(backend, alone("loss", loss_cost(plan, batch)), &mut |b| {
        b.softmax_cross_entropy(plan.classes, batch, plan.logits, plan.loss_gradient)
    })?;
    for &(logits, gradient) in &plan.auxiliary {
        visit(backend, alone("auxiliary loss", loss_cost(plan, batch)), &mut |b| {
            b.softmax_cross_entropy(plan.classes, batch, logits, Some(gradient))
        })?;
    }
    for step in &plan.backward {
        let part = Part { label: &step.label, cost: step.kind.cost(plan, batch), step: Some(step) };
        visit(backend, part, &mut |b| run_step(b, plan, &step.kind, batch)).with_context(|| step.label.clone())?;
    }
    visit(backend, alone("update", update_cost(plan, sgd)), &mut |b| b.sgd_step(sgd))
}

/// When one part began, counted from the first, and how long it took.
#[derive(Clone, Debug)]
pub struct StepTime {
    pub label: String,
    pub start: f64,
    pub seconds: f64,
    pub cost: Cost,
}

/// One optimiser step, each of its parts timed: by events on a device that works on its own, where parts follow one
/// another as if nothing lay between, else waited for on the host's clock.
///
/// Weights, optimiser state, metrics and loss scale are afterwards what they were before. The order of the images is used
/// up: it must have [`TIMED_RUNS`](crate::ops::TIMED_RUNS) batches.
pub fn profile_step<B: Backend>(backend: &mut B, plan: &Plan, sgd: &Sgd, batch: usize) -> Result<Vec<StepTime>> {
    let kept = Kept::of(backend, plan, sgd)?;
    let mut times: Vec<StepTime> = Vec::new();
    let beginning = Instant::now();
    each_part(backend, plan, sgd, batch, |backend, part, body| {
        let (start, seconds) = match device_seconds(backend, plan, &part, body)? {
            Some(seconds) => (times.last().map_or(0.0, |before| before.start + before.seconds), seconds),
            None => {
                backend.synchronize()?;
                let start = Instant::now();
                backend.run(Recording::Once, |backend| body(backend))?;
                backend.synchronize()?;
                ((start - beginning).as_secs_f64(), start.elapsed().as_secs_f64())
            }
        };
        times.push(StepTime { label: part.label.into(), start, seconds, cost: part.cost });
        Ok(())
    })?;
    kept.give_back(backend)?;
    Ok(times)
}

/// A part's time by the device's clock. What it changes in place is put back in between, so that the parts after it see
/// what they would in a step.
fn device_seconds<B: Backend>(backend: &mut B, plan: &Plan, part: &Part, body: &mut Body<B>) -> Result<Option<f64>> {
    let (reads, writes) = part.step.map(|step| step.kind.buffers()).unwrap_or_default();
    let in_place: Vec<Span> = reads.iter().filter(|&read| writes.contains(read)).map(|&read| plan.span(read)).collect();
    let before = in_place.iter().map(|&span| backend.read(span)).collect::<Result<Vec<_>>>()?;
    let seconds = backend.device_seconds(|backend| body(backend))?;
    if seconds.is_some() && !in_place.is_empty() {
        in_place.iter().zip(&before).try_for_each(|(&span, values)| backend.write(span, values))?;
        backend.run(Recording::Once, |backend| body(backend))?;
    }
    Ok(seconds)
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

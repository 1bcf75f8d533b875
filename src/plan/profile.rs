//! Times the steps of a program one by one.

use std::time::Instant;

use anyhow::{Context, Result};

use super::Cost;
use crate::ops::{Backend, Region, Span, Step};

/// Start time of a step in seconds since the first, and its duration.
#[derive(Clone, Debug)]
pub struct StepTime {
    pub label: String,
    pub start: f64,
    pub seconds: f64,
    pub cost: Cost,
}

/// Times every step of a training step's program, in order. On an asynchronous device, times are measured with events,
/// and start times assume that steps follow each other without gaps; otherwise both come from the host's clock.
///
/// Restores weights, optimiser state, metrics and loss scale. Consumes batches of the image order, which must have at
/// least [`TIMED_RUNS`](crate::ops::TIMED_RUNS).
pub fn profile_step<B: Backend>(backend: &mut B, steps: &[Step], program: &mut B::Program) -> Result<Vec<StepTime>> {
    // Buffers that are updated in place outside the arena persist across steps: weights, optimiser state, average, statistics.
    let persistent = steps.iter().flat_map(in_place).filter(|span| span.region != Region::Arena).collect();
    let (saved, metrics, loss_scale) = (read_all(backend, persistent)?, backend.read_metrics()?, backend.loss_scale()?);
    let updates = backend.update_count()?;
    let mut times: Vec<StepTime> = Vec::new();
    let beginning = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        let elapsed = beginning.elapsed().as_secs_f64();
        let seconds = time_step(backend, step, program, index).with_context(|| step.label.clone())?;
        let after_last = times.last().map_or(0.0, |last| last.start + last.seconds);
        let start = if backend.is_asynchronous() { after_last } else { elapsed };
        times.push(StepTime { label: step.label.clone(), start, seconds, cost: Cost::of(&step.op) });
    }
    write_all(backend, &saved)?;
    backend.set_metrics(metrics)?;
    backend.set_update_count(updates)?;
    loss_scale.map_or(Ok(()), |loss_scale| backend.set_loss_scale(loss_scale))?;
    Ok(times)
}

/// The time of a step. If it ran several times, the buffers that it updates in place are restored and it runs once
/// more, so that later steps see the same values as in a training step.
fn time_step<B: Backend>(backend: &mut B, step: &Step, program: &mut B::Program, index: usize) -> Result<f64> {
    let mut activations = in_place(step);
    activations.retain(|span| span.region == Region::Arena && backend.is_asynchronous());
    let before = read_all(backend, activations)?;
    let timed = backend.time_step(program, index)?;
    if timed.runs > 1 && !before.is_empty() {
        write_all(backend, &before)?;
        let mut once = backend.compile(vec![step.clone()])?;
        backend.run(&mut once)?;
    }
    Ok(timed.seconds)
}

/// The buffers that a step updates in place.
fn in_place(step: &Step) -> Vec<Span> {
    let writes = step.op.operands().writes();
    step.op.operands().reads().into_iter().filter(|read| writes.contains(read)).collect()
}

fn read_all<B: Backend>(backend: &mut B, spans: Vec<Span>) -> Result<Vec<(Span, Vec<f32>)>> {
    spans.into_iter().map(|span| Ok((span, backend.read(span)?))).collect()
}

fn write_all<B: Backend>(backend: &mut B, values: &[(Span, Vec<f32>)]) -> Result<()> {
    values.iter().try_for_each(|(span, values)| backend.write(*span, values))
}

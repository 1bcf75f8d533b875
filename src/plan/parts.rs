//! An optimiser step part by part: the gather, the plan's steps, the loss and the update, one after the other.

use std::time::Instant;

use anyhow::{Context, Result};

use super::cost::{gather_cost, loss_cost, update_cost};
use super::execute::run_step;
use super::{Cost, Plan, Step};
use crate::ops::{Backend, Recording, Sgd, Subset};

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

/// One optimiser step, each of its parts waited for and timed.
pub fn profile_step<B: Backend>(backend: &mut B, plan: &Plan, sgd: &Sgd, batch: usize) -> Result<Vec<StepTime>> {
    let mut times = Vec::new();
    let beginning = Instant::now();
    each_part(backend, plan, sgd, batch, |backend, part, body| {
        backend.synchronize()?;
        let start = Instant::now();
        backend.run(Recording::Once, |backend| body(backend))?;
        backend.synchronize()?;
        times.push(StepTime {
            label: part.label.into(),
            start: (start - beginning).as_secs_f64(),
            seconds: start.elapsed().as_secs_f64(),
            cost: part.cost,
        });
        Ok(())
    })?;
    Ok(times)
}

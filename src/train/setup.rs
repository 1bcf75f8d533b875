//! What a trainer checks and derives before its first step: batches, memory, the settings of a step.

use anyhow::{Context, Result, ensure};

use super::transforms::stage_of;
use super::{Hyperparameters, WarmUp};
use crate::data::{Dataset, Split};
use crate::network::{Network, Operator, Weights};
use crate::ops::{Backend, MemorySizes, Normalise, Optimizer, Rule, Subset};
use crate::plan::Plan;
use crate::shape::Shape;

/// Which state an optimiser keeps.
pub(super) fn state_of(rule: &Rule) -> [bool; 2] {
    [rule.has_momentum(), rule.has_second_moment()]
}

/// Loads the images of a split into a backend, or sets up their streaming.
pub(super) fn load_split<B: Backend>(
    backend: &mut B,
    subset: Subset,
    split: Split,
    normalise: &Normalise,
    max_batch: usize,
) -> Result<()> {
    let Split { images, labels, streamed, shape } = split;
    let normalise = &Normalise { shape: shape.unwrap_or(normalise.shape), ..normalise.clone() };
    match streamed {
        Some(streamed) => backend.stream_subset(subset, normalise, streamed.source, labels, max_batch),
        None => backend.load_subset(subset, normalise, images, labels),
    }
}

/// The initial weights, drawn from the seed; a first layer that whitens is computed from the training images, as they are
/// stored.
pub(super) fn initial_weights(network: &Network, seed: u64, train: &Split, normalise: &Normalise) -> Result<Weights> {
    let normalise = &Normalise { shape: train.shape.unwrap_or(normalise.shape), ..normalise.clone() };
    let (mut weights, image_len) = (network.initial_weights(seed), normalise.shape.len());
    let count = network.images_to_whiten(image_len);
    if count > 0 {
        let images = train.sample(count, image_len).context("the first layer is computed from training images")?;
        network.whiten(&mut weights.parameters, &images, normalise);
    }
    Ok(weights)
}

/// Fails if a network does not fit a data set.
pub(super) fn check_dataset(network: &Network, dataset: &Dataset) -> Result<()> {
    ensure!(
        dataset.shape == network.input() && dataset.classes.len() == network.classes(),
        "{} takes inputs of {} and has {} classes, but {} has images of {} and {} classes",
        network.name,
        network.input(),
        network.classes(),
        dataset.name,
        dataset.shape,
        dataset.classes.len()
    );
    Ok(())
}

/// Fails if a batch is too small for a batch normalisation.
pub(super) fn check_batch(network: &Network, batch: usize) -> Result<()> {
    for node in &network.nodes {
        if let (1, Operator::BatchNorm2d(op), false) = (batch, &node.operator, network.is_frozen_norm(node)) {
            op.training_rows(batch).with_context(|| node.name.clone())?;
        }
    }
    Ok(())
}

/// Fails if images are too small to be augmented or seen as the settings say.
pub(super) fn check_images(hyper: &Hyperparameters, shape: Shape) -> Result<()> {
    hyper.augmentation.check(shape)?;
    hyper.views.check(shape)
}

/// The memory for all plans of a run, which never run at the same time. They differ in what depends on activations, and
/// evaluation in its batch.
pub(super) fn memory_sizes<'a>(
    plans: impl Iterator<Item = &'a Plan>,
    eval_plan: &Plan,
    hyper: &Hyperparameters,
    stored: Shape,
) -> MemorySizes {
    let (Optimizer { rule, average_decay, .. }, accumulates) = (hyper.optimizer, hyper.accumulated() > 1);
    let in_use = |in_use| if in_use { eval_plan.parameter_count } else { 0 };
    let training = plans.map(|plan| plan.memory_sizes(rule.has_momentum()));
    let largest = |a: MemorySizes, b: MemorySizes| MemorySizes {
        arena: a.arena.max(b.arena),
        sample_arena: a.sample_arena.max(b.sample_arena),
        indices: a.indices.max(b.indices),
        sample_indices: a.sample_indices.max(b.sample_indices),
        columns: a.columns.max(b.columns),
        directions: a.directions.max(b.directions),
        max_batch: a.max_batch.max(b.max_batch),
        ..a
    };
    let evaluation = eval_plan.memory_sizes(false);
    let all = training.reduce(largest).map_or(evaluation, |training| largest(training, evaluation));
    MemorySizes {
        gradient_sum: in_use(accumulates),
        second_moment: in_use(rule.has_second_moment()),
        average: in_use(average_decay.is_some()),
        staged: stage_of(hyper, stored).map_or([0; 4], |stage| stage.bytes(eval_plan.input_shape)),
        ..all
    }
}

/// Fails if the warm-up is not shorter than the run.
pub(super) fn check_warm_up(hyper: &Hyperparameters, steps_per_epoch: u64) -> Result<()> {
    let (warm_up, steps) = (hyper.learning_rate.warm_up, u64::from(hyper.epochs) * steps_per_epoch);
    let WarmUp::Steps(given) = warm_up else { return Ok(()) };
    ensure!(given < steps, "--warm-up-steps {given} must be shorter than the run of {steps} steps");
    Ok(())
}

/// Fails if the network's groups are not those of the optimiser.
pub(super) fn check_rule(network: &Network, hyper: &Hyperparameters) -> Result<()> {
    let (is_muon, has_matrices) = (matches!(hyper.optimizer.rule, Rule::Muon(_)), network.group_rules.muon.is_some());
    ensure!(is_muon == has_matrices, "the groups of the network's parameters are not those of {}", {
        hyper.optimizer.rule.name()
    });
    Ok(())
}

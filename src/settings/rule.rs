//! The settings of gradient descent, which a network that learns by a rule of its own does not use.

use anyhow::Result;
use toml::Table;

use super::layers::{Layer, defaults, table, values};
use super::{Settings, usage};
use crate::models;

/// Settings in the groups below that apply to every network.
const USED: &[&str] = &["batch-size", "eval-batch-size", "seed", "shuffle", "monitor"];

/// The number of passes over the training images that a trainer makes, to count its errors.
const EPOCHS: u32 = 1;

/// Fails if a recipe or flags have a setting that the model does not use. A recipe may have the default of one, because
/// the `config.toml` of a run has all of them.
pub(super) fn refuse_unused(model: &str, recipe: &Layer, flags: &Layer) -> Result<()> {
    if !models::has_own_rule(model) {
        return Ok(());
    }
    let usual = settings_of_descent(&usual())?;
    let recipe = settings_of_descent(&recipe.given)?;
    let recipe = values(&recipe).into_iter().filter(|entry| !values(&usual).contains(entry)).map(|(key, _)| key);
    let flags = settings_of_descent(&flags.given)?;
    let unused = recipe.chain(values(&flags).into_iter().map(|(key, _)| key)).next();
    usage(unused.is_none(), || {
        let key = unused.unwrap_or_default();
        format!(
            "--{key} has no effect with --model {model}, which learns by a rule of its own instead of gradient descent; \
             leave it out"
        )
    })
}

/// The settings of a run of such a model, which are the defaults but for the number of passes.
pub(super) fn complete(model: &str, settings: &mut Settings) {
    if models::has_own_rule(model) {
        settings.schedule.epochs = Some(EPOCHS);
    }
}

fn usual() -> Settings {
    let mut usual = defaults::<Settings>();
    usual.schedule.epochs = Some(EPOCHS);
    usual
}

/// The settings of gradient descent that are given, by their keys.
fn settings_of_descent(given: &Settings) -> Result<Table> {
    let Settings { model, variation, optimiser, schedule, finetuning, augmentation, .. } = given;
    let mut all = table(variation)?;
    all.extend(table(optimiser)?);
    all.extend(table(schedule)?);
    all.extend(table(finetuning)?);
    all.extend(table(augmentation)?);
    if let Some(activation) = model.activation {
        all.insert("activation".into(), activation.to_string().into());
    }
    all.retain(|key, _| !USED.contains(&key));
    Ok(all)
}

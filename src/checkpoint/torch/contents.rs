//! Finds the `state_dict` in what a file of `torch.save` holds.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::objects::{Objects, Value};
use crate::checkpoint::recognise::CONVERT;
use crate::checkpoint::tensor::Tensors;

/// The entries in which training programs save weights among other things, first those that say so.
const CONTAINERS: [&str; 6] = ["state_dict", "model_state_dict", "model", "net", "network", "weights"];

/// Containers in containers that are looked at.
const DEPTH: usize = 2;

/// The tensors of `root`, and the keys that lead to them, such as `state_dict`; empty if they are its own entries.
pub(super) fn state_dict<'a>(objects: &Objects<'a>, root: Value<'a>) -> Result<(Tensors<'a>, String)> {
    let Some((keys, dict)) = find(objects, root, DEPTH) else {
        let shown = named(objects, root)?.keys().take(8).copied().collect::<Vec<_>>().join(", ");
        bail!("it holds no tensors, nor a state_dict under one of the usual names, but entries {shown}: {CONVERT}");
    };
    let entries = named(objects, dict)?;
    let tensor = |(&name, &value): (&&'a str, &Value<'a>)| {
        let tensor = objects.tensor(value).cloned();
        tensor.map(|tensor| (name, tensor)).with_context(|| {
            let shown: String = name.chars().take(100).collect();
            format!("its entry {shown} is not a tensor, as all entries of a state_dict are: {CONVERT}")
        })
    };
    let tensors: Vec<_> = entries.iter().map(tensor).collect::<Result<_>>()?;
    Ok((Tensors::new(tensors), keys.join(".")))
}

/// The dictionary of tensors below `value`, with the keys that lead to it: in a container, else `value` itself.
fn find<'a>(objects: &Objects<'a>, value: Value<'a>, depth: usize) -> Option<(Vec<&'static str>, Value<'a>)> {
    let entries = objects.entries(value)?;
    for key in CONTAINERS.into_iter().filter(|_| depth > 0) {
        let entry = entries.iter().rev().find(|[name, _]| *name == Value::Str(key));
        if let Some((mut keys, found)) = entry.and_then(|&[_, inner]| find(objects, inner, depth - 1)) {
            keys.insert(0, key);
            return Some((keys, found));
        }
    }
    entries.iter().any(|&[_, value]| objects.tensor(value).is_some()).then_some((Vec::new(), value))
}

/// The entries of a dictionary by name. Of equal keys, the last counts, as in Python.
fn named<'a>(objects: &Objects<'a>, value: Value<'a>) -> Result<BTreeMap<&'a str, Value<'a>>> {
    let Some(entries) = objects.entries(value) else {
        let single = objects.tensor(value).is_some();
        ensure!(!single, "it holds a single tensor, not the state_dict of a module: {CONVERT}");
        bail!("it does not hold a state_dict: {CONVERT}");
    };
    let named = |&[key, value]: &[Value<'a>; 2]| if let Value::Str(name) = key { Some((name, value)) } else { None };
    entries.iter().map(named).collect::<Option<_>>().with_context(|| format!("a name in it is not a string: {CONVERT}"))
}

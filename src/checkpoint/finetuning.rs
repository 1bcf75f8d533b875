//! Pretrained weights for a network whose last layer may have another shape, as for other classes.

use std::path::Path;

use anyhow::{Error, Result, bail};

use super::foreign::extra_tensors;
use super::statistics::statistics_shapes;
use super::tensor::Tensors;
use super::tensors::wrapped;
use super::weights::{from_tensors, lacks_auxiliary, with_tensors};
use crate::network::{Network, NodeId, Weights};

/// Weights to fine-tune.
#[derive(Clone, Debug, PartialEq)]
pub struct FineTuned {
    pub weights: Weights,
    /// The heads that have their initial values, because those of the file have another shape.
    pub new_heads: Vec<NewHead>,
    /// Whether the auxiliary classifiers have their initial values, because the file has none.
    pub lacks_auxiliary: bool,
}

/// A linear layer that computes logits and is not that of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHead {
    pub layer: String,
    /// The shape of its weight in the file, and in the network.
    pub shapes: [Vec<usize>; 2],
}

/// At most as many tensors are named for each reason.
const NAMED: usize = 8;

/// Reads weights to fine-tune. The head, which is the linear layer that computes the logits, and those of auxiliary
/// classifiers get their initial values for `seed` if theirs in the file have another shape.
///
/// # Errors
/// The file cannot be read, or has other tensors than the network, apart from the shape of heads; the message names them.
pub fn load_for_finetuning(path: &Path, network: &Network, seed: u64) -> Result<FineTuned> {
    with_tensors(path, network, |tensors| {
        let heads = heads_of_other_shape(network, tensors);
        let lacks_auxiliary = lacks_auxiliary(network, tensors);
        let mut skipped = vec![false; network.parameters.len()];
        for &head in &heads {
            let node = &network.nodes[head];
            node.weight.iter().chain(&node.bias).for_each(|&index| skipped[index] = true);
        }
        check_tensors(network, tensors, &skipped, lacks_auxiliary)?;
        let new_head = |&head: &NodeId| -> Option<NewHead> {
            let node = &network.nodes[head];
            let weight = &network.parameters[node.weight?];
            let shapes = [tensors.get(&weight.name)?.shape.clone(), weight.layout.file_shape()];
            Some(NewHead { layer: node.name.clone(), shapes })
        };
        let new_heads = heads.iter().filter_map(new_head).collect();
        let weights = from_tensors(tensors, network, seed, &skipped)?;
        Ok(FineTuned { weights, new_heads, lacks_auxiliary })
    })
}

/// The heads whose weight and bias the file has, in another shape.
fn heads_of_other_shape(network: &Network, tensors: &Tensors) -> Vec<NodeId> {
    let differs = |head: &NodeId| {
        let node = &network.nodes[*head];
        let mut shapes = node.weight.iter().chain(&node.bias).map(|&index| {
            let parameter = &network.parameters[index];
            Some((&tensors.get(&parameter.name)?.shape, parameter.layout.file_shape()))
        });
        let are_there = shapes.clone().all(|it| it.is_some());
        are_there && shapes.any(|it| it.is_some_and(|(theirs, ours)| *theirs != ours))
    };
    network.heads().into_iter().filter(differs).collect()
}

/// Fails with the names of all tensors that are missing, unknown or of another shape, apart from those `skipped`.
fn check_tensors(network: &Network, tensors: &Tensors, skipped: &[bool], lacks_auxiliary: bool) -> Result<()> {
    let auxiliary = network.auxiliary_state();
    let without = |absent: &[bool], index: usize| lacks_auxiliary && absent[index];
    let parameters = network.parameters.iter().enumerate();
    let parameters = parameters.filter(|(index, _)| !skipped[*index] && !without(&auxiliary.parameters, *index));
    let mut expected: Vec<(String, Vec<usize>)> =
        parameters.map(|(_, it)| (it.name.clone(), it.layout.file_shape())).collect();
    expected.extend(statistics_shapes(network, |index| !without(&auxiliary.statistics, index)));
    let (mut absent, mut shapes) = (Vec::new(), Vec::new());
    for (name, shape) in &expected {
        match tensors.get(name) {
            None => absent.push(name.clone()),
            Some(tensor) if tensor.shape != *shape => {
                shapes.push(format!("{name} ({:?} instead of {shape:?})", tensor.shape));
            }
            Some(_) => {}
        }
    }
    let extra: Vec<String> = extra_tensors(network, &[""], tensors).into_iter().map(String::from).collect();
    if absent.is_empty() && extra.is_empty() && shapes.is_empty() {
        return Ok(());
    }
    if let Some(error) = absent.first().and_then(|name| wrapped(name, tensors)) {
        return Err(error);
    }
    bail!(mismatch(network, [("missing", absent), ("not of the network", extra), ("of another shape", shapes)]))
}

fn mismatch(network: &Network, reasons: [(&str, Vec<String>); 3]) -> Error {
    let named = |(reason, names): &(&str, Vec<String>)| {
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("{reason}: {names}{more}")
    };
    let all: Vec<String> = reasons.iter().filter(|(_, names)| !names.is_empty()).map(named).collect();
    let heads =
        network.heads().into_iter().map(|head| network.nodes[head].name.as_str()).collect::<Vec<_>>().join(", ");
    let only = if heads.is_empty() { String::new() } else { format!("; only the shape of {heads} may differ") };
    Error::msg(format!(
        "its tensors are not those of {}: {}{only}. Does it belong to another network? See --model",
        network.name,
        all.join("; ")
    ))
}

//! Which layers are explained, and their names.

use anyhow::{Context, Result, bail};

use crate::network::{Network, NodeId, Operator};
use crate::ops::AnyLayer;

/// The layer that `name` means: the node of that name, or for the name of a module its output, which is that of its last
/// layer with the normalisation, sum, concatenation and activation that follow, as far as they take nothing from other
/// modules than those before.
///
/// # Errors
/// If there is no such layer, or it exists only in training.
pub fn find_layer(network: &Network, name: &str) -> Result<NodeId> {
    let is_inside = |node: &str| node.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && !name.is_empty());
    let nodes = &network.nodes;
    let exact = nodes.iter().position(|node| node.name == name);
    let module = || {
        let inside: Vec<bool> = nodes.iter().map(|node| node.weight.is_some() && is_inside(&node.name)).collect();
        let last = inside.iter().rposition(|&inside| inside)?;
        Some(output_of_module(network, last, inside))
    };
    let Some(node) = exact.or_else(module) else {
        bail!("{0} has no layer {name:?}; `cnn-cuda summary --model {0}` lists the layers", network.name)
    };
    if !network.evaluated_nodes()[node] {
        bail!("{name} of {} is part of an auxiliary head, which is only computed in training", network.name);
    }
    Ok(node)
}

/// The layer that Grad-CAM explains by default: the last convolution, with the normalisation, sum, concatenation and
/// activation that follow.
///
/// # Errors
/// If the network has no convolution.
pub fn explained_layer(network: &Network) -> Result<NodeId> {
    let live = network.evaluated_nodes();
    let is_convolution = |id: &NodeId| live[*id] && matches!(network.nodes[*id].operator, Operator::Conv2d(_));
    let last = (0..network.nodes.len()).rev().find(is_convolution);
    Ok(output_of(network, last.with_context(|| format!("{} has no convolution", network.name))?))
}

/// The layers whose activations are shown: all that are computed in evaluation, but of a layer with a normalisation, sum,
/// concatenation and activation after it only the result.
pub fn shown_layers(network: &Network) -> Vec<NodeId> {
    let live = network.evaluated_nodes();
    let is_view = |id: NodeId| matches!(network.nodes[id].operator, Operator::Flatten | Operator::Dropout(_));
    (0..network.nodes.len()).filter(|&id| live[id] && !is_view(id) && follower(network, id).is_none()).collect()
}

/// The layers among [`shown_layers`] that start with a convolution, or join some, and have several positions.
pub fn convolution_layers(network: &Network) -> Vec<NodeId> {
    let starts = |node: &NodeId| {
        let first = network.nodes[*joined_from(network, *node).last().unwrap_or(node)].operator.clone();
        matches!(first, Operator::Conv2d(_) | Operator::Add | Operator::Concat)
    };
    shown_layers(network).into_iter().filter(|&node| network.nodes[node].shape.pixels() > 1).filter(starts).collect()
}

/// A node, and those before it of which each is followed by the next.
fn joined_from(network: &Network, node: NodeId) -> Vec<NodeId> {
    let mut nodes = vec![node];
    while let [before] = network.nodes[nodes[nodes.len() - 1]].inputs[..]
        && follower(network, before) == nodes.last().copied()
    {
        nodes.push(before);
    }
    nodes
}

/// A layer's name and description for display: the module whose output it is if there is one, such as `layer4.1`, else
/// the convolution or linear layer, such as `features.3`, else the node; and what that computes, such as
/// `conv 3×3, 16→32, batch norm, ReLU`.
pub fn layer_title(network: &Network, node: NodeId) -> (String, String) {
    let parts = joined_from(network, node);
    let first = &network.nodes[parts[parts.len() - 1]];
    if parts.len() == 1 && first.weight.is_some() {
        return (first.name.clone(), first.operator.describe());
    }
    // The last layer with weights among those that a sum or a concatenation joins.
    let joined = first.inputs.iter().max().filter(|_| first.inputs.len() > 1);
    let weighted = (0..=joined.copied().unwrap_or(parts[parts.len() - 1])).rev();
    let weighted = weighted.map(|id| &network.nodes[id]).find(|node| node.weight.is_some());
    let module = weighted.filter(|_| first.weight.is_some() || joined.is_some()).and_then(|weighted| {
        let ends = weighted.name.match_indices('.').map(|(end, _)| &weighted.name[..end]);
        ends.rev().find(|module| find_layer(network, module).is_ok_and(|it| it == node))
    });
    let name = module.unwrap_or(if first.weight.is_some() { &first.name } else { &network.nodes[node].name });
    let described: Vec<String> = parts.iter().rev().map(|&id| network.nodes[id].operator.describe()).collect();
    (name.to_string(), described.join(", "))
}

/// The same for a module with the nodes `inside`, the last of which is `id`. A sum or concatenation belongs to the module if
/// all its inputs do, or come from before the module, as the shortcut of a residual block does.
fn output_of_module(network: &Network, mut id: NodeId, mut inside: Vec<bool>) -> NodeId {
    // What the module's layers depend on, and what depends on them alone.
    for node in (0..=id).rev().filter(|&node| inside[node]).collect::<Vec<_>>() {
        mark_inputs(network, node, &mut inside);
    }
    for node in 0..network.nodes.len() {
        let inputs = &network.nodes[node].inputs;
        inside[node] |=
            network.nodes[node].weight.is_none() && !inputs.is_empty() && inputs.iter().all(|&it| inside[it]);
    }
    while let Some(next) = follower(network, id).filter(|&next| network.nodes[next].inputs.iter().all(|&it| inside[it]))
    {
        inside[next] = true;
        id = next;
    }
    id
}

fn mark_inputs(network: &Network, node: NodeId, marked: &mut [bool]) {
    for &input in &network.nodes[node].inputs {
        if !marked[input] {
            marked[input] = true;
            mark_inputs(network, input, marked);
        }
    }
}

/// The last of the nodes that [`follower`] finds one after the other.
fn output_of(network: &Network, mut id: NodeId) -> NodeId {
    while let Some(next) = follower(network, id) {
        id = next;
    }
    id
}

/// The normalisation, sum, concatenation or activation that follows a layer, if nothing else reads the layer's output.
fn follower(network: &Network, id: NodeId) -> Option<NodeId> {
    let live = network.evaluated_nodes();
    let mut readers = (id + 1..network.nodes.len()).filter(|&it| live[it] && network.nodes[it].inputs.contains(&id));
    let (reader, None) = (readers.next()?, readers.next()) else { return None };
    let follows = match network.nodes[reader].operator {
        Operator::BatchNorm2d(_) | Operator::Activation(_) | Operator::Add | Operator::Concat => true,
        Operator::Layer(layer) => matches!(layer, AnyLayer::Pointwise(_)),
        _ => false,
    };
    // The input itself is always shown.
    (follows && id > 0).then_some(reader)
}

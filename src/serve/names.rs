//! The names of layers on the page.

use crate::network::{Network, NodeId, Operator};

/// The name of the operator with a window or weights that a shown layer begins with, and a description of it and of what
/// follows.
pub fn names(network: &Network, node: NodeId) -> (String, String) {
    let (mut at, mut texts) = (node, Vec::new());
    loop {
        let it = &network.nodes[at];
        texts.push(it.operator.describe());
        let follows = matches!(it.operator, Operator::BatchNorm2d(_) | Operator::Activation(_));
        match it.inputs.first().filter(|_| follows) {
            Some(&input) => at = input,
            None => break,
        }
    }
    texts.reverse();
    (network.nodes[at].name.clone(), texts.join(" → "))
}

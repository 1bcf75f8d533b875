//! timm's names of VGG's linear layers, which it has as convolutions. Its names of ResNets are torchvision's.

use super::tensor::{Tensor, Tensors};
use crate::network::Network;

/// timm's layers and torchvision's.
const VGG: [(&str, &str); 3] =
    [("pre_logits.fc1", "classifier.0"), ("pre_logits.fc2", "classifier.3"), ("head.fc", "classifier.6")];

/// Whether the tensors are those of a VGG network of timm, and `network` has torchvision's names.
pub(super) fn is_vgg(network: &Network, tensors: &Tensors) -> bool {
    let has = |name: &str| network.parameters.iter().any(|parameter| parameter.name == name);
    VGG.iter().all(|(theirs, ours)| {
        let [theirs, ours] = [theirs, ours].map(|layer| format!("{layer}.weight"));
        tensors.get(&theirs).is_some() && has(&ours) && tensors.get(&ours).is_none()
    })
}

/// The tensors of timm's VGG with torchvision's names and shapes.
pub(super) fn as_torchvision<'a>(tensors: Tensors<'a>) -> Tensors<'a> {
    tensors.renamed(|name, tensor: Tensor<'a>| {
        let layer = VGG.iter().find_map(|(theirs, ours)| Some((name.strip_prefix(theirs)?, ours)));
        match layer {
            Some((rest, layer)) => (format!("{layer}{rest}").into(), tensor.into_matrix()),
            None => (name, tensor),
        }
    })
}

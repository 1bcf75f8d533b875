//! Grad-CAM: where a layer's activations speak for a class (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep
//! Networks via Gradient-based Localization", 2017).

use anyhow::{Result, ensure};

use super::{Attribution, Map};
use crate::network::NodeId;
use crate::ops::Backend;

/// `ReLU(Σ_c α_c A_c)` over the channels `A_c` of a node, where `α_c` is the mean over all positions of the gradient of a
/// class's logit with respect to `A_c`. The map has the size of the layer; it is that of captum's `LayerGradCam` with
/// `relu_attributions`, and enlarged and normalised it is that of the package `grad-cam`.
///
/// # Errors
/// If the class or the node does not exist in evaluation.
pub fn grad_cam<B: Backend>(
    network: &mut Attribution<'_, B>,
    input: &[f32],
    class: usize,
    node: NodeId,
) -> Result<Map> {
    network.input_gradients(input, class)?;
    let (activations, gradients) = (network.activations(node)?, network.gradients(node)?);
    let shape = network.shape(node);
    ensure!(activations.len() == shape.len(), "Grad-CAM takes one picture at a time");
    let mut weights = vec![0.0; shape.channels];
    for position in gradients.chunks_exact(shape.channels) {
        weights.iter_mut().zip(position).for_each(|(weight, gradient)| *weight += gradient / shape.pixels() as f32);
    }
    let weighted = |position: &[f32]| weights.iter().zip(position).map(|(weight, value)| weight * value).sum::<f32>();
    let values = activations.chunks_exact(shape.channels).map(|position| weighted(position).max(0.0)).collect();
    Ok(Map::new(shape.height, shape.width, values))
}

//! Folds batch normalisations into the convolutions before them, for evaluation.

use super::{Network, Node, NodeId, Operator, Weights};
use crate::ops::BatchNorm2d;

/// The largest number of 16 bits: a larger weight would become infinite with `--precision fp16`.
const LARGEST: f32 = 65504.0;

impl Network {
    /// The same network for evaluation, with batch normalisations folded into the convolutions before them, and its
    /// weights: `w' = w · γ / √(σ² + ε)` and `b' = β + (b − μ) · γ / √(σ² + ε)`, with the running statistics, computed in
    /// f64 and rounded once (`torch.nn.utils.fusion.fuse_conv_bn_eval`).
    ///
    /// A normalisation stays if something else also reads the convolution, if it follows another operator, or if a folded
    /// value would not be finite in 16 bits. The parameters have the same places as before; some are no longer used.
    pub fn folded(&self, weights: &Weights) -> (Self, Weights) {
        let (mut network, mut weights) = (self.clone(), weights.clone());
        let readers = self.consumer_counts();
        let mut folded = vec![false; self.nodes.len()];
        for (id, norm) in self.nodes.iter().enumerate() {
            let Operator::BatchNorm2d(op) = norm.operator else { continue };
            let source = norm.inputs[0];
            let conv = &self.nodes[source];
            let is_only_reader = matches!(conv.operator, Operator::Conv2d(_)) && readers[source] == 1;
            if is_only_reader && self.fold(conv, norm, op, &mut weights) {
                // The convolution takes the place of the normalisation, so that the last node stays the last.
                network.nodes[id] = Node { bias: norm.bias, ..conv.clone() };
                folded[source] = true;
            }
        }
        network.remove(&folded);
        (network, weights)
    }

    /// Writes the weight of a convolution with its normalisation to its place, and the bias to that of the
    /// normalisation's. Returns false, without changing anything, if a value is too large.
    fn fold(&self, conv: &Node, norm: &Node, op: BatchNorm2d, weights: &mut Weights) -> bool {
        let range = |index: Option<usize>| index.map(|index| self.parameters[index].range());
        let (Some(weight), Some(scale), Some(shift)) = (range(conv.weight), range(norm.weight), range(norm.bias))
        else {
            return false;
        };
        let Some(statistics) = norm.statistics.map(|index| self.statistics[index].range()) else { return false };
        let values = &weights.parameters;
        let (mean, variance) = weights.statistics.values[statistics].split_at(op.input.channels);
        let factor = |channel: usize| {
            let deviation = (f64::from(variance[channel]) + f64::from(op.epsilon)).sqrt();
            f64::from(values[scale.start + channel]) / deviation
        };
        // A filter is contiguous.
        let filters = values[weight.clone()].chunks_exact(weight.len() / op.input.channels).enumerate();
        let folded_weight: Vec<f32> = filters
            .flat_map(|(channel, filter)| {
                let factor = factor(channel);
                filter.iter().map(move |&value| (f64::from(value) * factor) as f32)
            })
            .collect();
        let bias = range(conv.bias).map(|bias| &values[bias]);
        let folded_bias: Vec<f32> = (0..op.input.channels)
            .map(|channel| {
                let bias = bias.map_or(0.0, |bias| f64::from(bias[channel]));
                let centred = bias - f64::from(mean[channel]);
                (f64::from(values[shift.start + channel]) + centred * factor(channel)) as f32
            })
            .collect();
        let fits = folded_weight.iter().chain(&folded_bias).all(|value| value.abs() <= LARGEST);
        if fits {
            weights.parameters[weight].copy_from_slice(&folded_weight);
            weights.parameters[shift].copy_from_slice(&folded_bias);
        }
        fits
    }

    /// Removes nodes that nothing reads.
    fn remove(&mut self, removed: &[bool]) {
        let before = |id: NodeId| removed[..id].iter().filter(|&&removed| removed).count();
        let places: Vec<NodeId> = (0..removed.len()).map(|id| id - before(id)).collect();
        let mut each = removed.iter();
        self.nodes.retain(|_| each.next() == Some(&false));
        self.nodes.iter_mut().flat_map(|node| &mut node.inputs).for_each(|input| *input = places[*input]);
        self.auxiliary.iter_mut().for_each(|(head, _)| *head = places[*head]);
        for layer in &mut self.cells {
            [&mut layer.input, &mut layer.inhibition, &mut layer.output].into_iter().for_each(|id| *id = places[*id]);
        }
    }
}

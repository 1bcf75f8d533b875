//! Where the loss reads and writes: the network's logits, and those of heads that only help training.

use super::ValueId;
use super::schedule::Scheduler;
use crate::network::{NodeId, Operator};
use crate::ops::{Activation, LossGradient, Region, Span};

/// Logits with what the loss writes for them.
pub(super) struct Head {
    logits: ValueId,
    d_logits: ValueId,
    d_bias: Option<Span>,
    auxiliary: Option<f32>,
}

impl Head {
    pub(super) fn placed(self, spans: &[Span]) -> (Span, LossGradient) {
        let Self { logits, d_logits, d_bias, auxiliary } = self;
        (spans[logits], LossGradient { d_logits: spans[d_logits], d_bias, smoothing: 0.0, auxiliary })
    }
}

impl Scheduler<'_> {
    /// What the loss reads and writes of one head, at the clock of the loss.
    pub(super) fn head(&mut self, id: NodeId, auxiliary: Option<f32>) -> Head {
        let (logits, d_logits) = (self.output(id), self.gradient(id));
        self.touch(logits);
        self.touch(d_logits);
        Head { logits, d_logits, d_bias: self.logits_bias(id), auxiliary }
    }

    /// The bias gradient of the layer that makes the logits, where the loss can sum it: no activation comes between.
    fn logits_bias(&mut self, logits: NodeId) -> Option<Span> {
        let producer = self.fusion.root[logits];
        let node = &self.network.nodes[producer];
        let is_layer = matches!(node.operator, Operator::Conv2d(_) | Operator::Linear(_));
        let sums = is_layer && node.shape.pixels() == 1 && self.fusion.epilogue[producer] == Activation::Identity;
        let d_bias =
            self.parameter(node.bias, Region::Gradients).filter(|_| sums && self.fusion.pool[producer].is_none());
        self.fused_backward[producer] |= d_bias.is_some();
        d_bias
    }
}

//! The backward pass of the schedule: the gradients of each operator in reverse order, summed if an activation feeds
//! several operators.

use super::schedule::Scheduler;
use super::{Kept, Mode, ReluGradient, ValueId};
use crate::network::{Node, NodeId, Operator};
use crate::ops::{
    Activation, ActivationBackward, ActivationForward, Add, BatchNorm2d, BatchNorm2dBackwardInput,
    BiasActivationBackward, Conv2dBackwardInput, Conv2dBackwardWeight, CopyBuffer, CopyChannels, DropoutPass,
    GradientEpilogue, LinearBackwardInput, LinearBackwardWeight, LossGradient, MaxPool2dBackward, NextDropoutStep,
    NormEpilogue, Op, Region,
};

/// What the input gradient of a batch normalisation depends on.
struct NormGradient {
    activation: Activation,
    weight: ValueId,
    bias: ValueId,
    statistics: ValueId,
    /// The gradients of weight and bias; `None` with running statistics.
    sums: Option<[ValueId; 2]>,
}

impl Scheduler<'_> {
    /// The logits of a head and the gradient that the loss writes, both alive at the time of the loss.
    pub(super) fn head(&mut self, id: NodeId, auxiliary: Option<f32>) -> (ValueId, LossGradient<ValueId>) {
        let (logits, d_logits) = (self.output(id), self.gradient(id));
        self.touch(logits);
        self.touch(d_logits);
        (logits, LossGradient { d_bias: self.logits_bias(id), auxiliary, ..LossGradient::new(d_logits) })
    }

    /// The bias gradient of the layer that computes the logits, if the loss can sum it: there must be no activation or
    /// pooling in between.
    fn logits_bias(&mut self, logits: NodeId) -> Option<ValueId> {
        let producer = self.fusion.root[logits];
        let node = &self.network.nodes[producer];
        let is_layer = matches!(node.operator, Operator::Conv2d(_) | Operator::Linear(_));
        let sums = is_layer && node.shape.pixels() == 1 && self.fusion.epilogue[producer] == Activation::Identity;
        if !sums || self.fusion.pool[producer].is_some() {
            return None;
        }
        let d_bias = self.parameter_gradient(node.bias);
        self.fused_backward[producer] |= d_bias.is_some();
        d_bias
    }

    /// The buffer of a node's gradient, created at its first use.
    pub(super) fn gradient(&mut self, id: NodeId) -> ValueId {
        let root = self.fusion.root[id];
        if let Some(value) = self.gradients[root] {
            return value;
        }
        let value = self.value(Region::Arena, self.network.nodes[root].shape.len(), self.clock);
        *self.gradients[root].insert(value)
    }

    /// Emits the backward pass of an attribution, and keeps every activation and gradient until its end.
    pub(super) fn attribution(&mut self) -> Vec<Option<Kept>> {
        let count = self.network.nodes.len();
        self.gradient(count - 1);
        (0..count).rev().for_each(|id| self.backward(id));
        let live = self.live.clone();
        let keep = |(id, live): (usize, bool)| {
            let kept = live.then(|| Kept { output: self.output(id), gradient: self.gradient(id) })?;
            self.touch(kept.output);
            self.touch(kept.gradient);
            Some(kept)
        };
        live.into_iter().enumerate().map(keep).collect()
    }

    pub(super) fn backward(&mut self, id: NodeId) {
        let network = self.network;
        let node = &network.nodes[id];
        if self.fusion.root[id] != id || !self.needs_gradient[id] {
            return;
        }
        let (d_output, output) = (self.gradient(id), self.output(id));
        let source = node.inputs.first().copied().unwrap_or(0);
        match node.operator {
            Operator::Input | Operator::Flatten => {}
            Operator::Conv2d(_) | Operator::Linear(_) => self.product_backward(id, d_output, output),
            Operator::BatchNorm2d(op) => self.batch_norm_backward(id, op, d_output),
            Operator::MaxPool2d(op) => {
                let Some(argmax) = self.argmax[id] else { return };
                // The pooling's output replaces the layer's: a maximum equals the input that it was taken from.
                let epilogue = self.gradient_epilogue(source, op.input.channels);
                let epilogue = epilogue.map(|epilogue| GradientEpilogue { output, relu_mask: None, ..epilogue });
                self.contribute(node, source, |d_input| MaxPool2dBackward { op, d_output, argmax, d_input, epilogue });
            }
            Operator::Layer(layer) => {
                let input = self.output(source);
                self.contribute(node, source, |d_input| layer.backward(input, d_output, d_input));
            }
            Operator::Dropout(op) => {
                self.contribute(node, source, |output| DropoutPass { op, input: d_output, output });
            }
            Operator::Activation(op) => match self.mode {
                Mode::Attribution(ReluGradient::Rectified) if op == Activation::Relu => {
                    self.contribute(node, source, |output| ActivationForward { op, input: d_output, output });
                }
                _ => self.contribute(node, source, |d_input| ActivationBackward { op, output, d_output, d_input }),
            },
            Operator::Add => node.inputs.iter().for_each(|&input| self.contribute_copy(node, input, d_output)),
            Operator::Concat => {
                for (input, op) in self.concat_copies(node) {
                    self.contribute(node, input, |output| CopyChannels { op: op.inverse(), input: d_output, output });
                }
            }
        }
    }

    fn product_backward(&mut self, id: NodeId, d_output: ValueId, output: ValueId) {
        let network = self.network;
        let node = &network.nodes[id];
        let activation = self.fusion.epilogue[id];
        let d_bias = self.parameter_gradient(node.bias);
        if !self.fused_backward[id] && (d_bias.is_some() || activation != Activation::Identity) {
            let channels = node.shape.channels;
            let op = BiasActivationBackward { activation, channels, d_bias, output, d_output };
            self.emit(node, "backward bias", op);
        }
        let source = node.inputs[0];
        let input = self.output(source);
        let (weight, d_weight) = (
            self.required_parameter(node.weight, Region::Parameters),
            self.required_parameter(node.weight, Region::Gradients),
        );
        let (op, channels): (Op<ValueId>, usize) = match node.operator {
            Operator::Conv2d(op) => (Conv2dBackwardWeight { op, input, d_output, d_weight }.into(), op.input.channels),
            Operator::Linear(op) => {
                let d_bias = self.relu_masks[id].and(d_bias);
                (LinearBackwardWeight { op, input, d_output, d_weight, d_bias }.into(), op.in_features)
            }
            _ => return,
        };
        if node.weight.is_some_and(|weight| self.trains_parameter(weight)) {
            self.emit(node, "backward weight", op);
        }
        if !self.needs_gradient[source] {
            return;
        }
        let epilogue = self.gradient_epilogue(source, channels);
        match node.operator {
            Operator::Linear(op) => {
                let step = |d_input| LinearBackwardInput { op, weight, d_output, d_input, epilogue };
                self.contribute(node, source, step);
            }
            Operator::Conv2d(op) => {
                let (root, norm) = (self.fusion.root[source], self.norm_epilogue(source));
                let d_input = self.next_value(Region::Arena, network.nodes[source].shape.len());
                let added = self.gradients[root].replace(d_input);
                self.pending[root] -= 1;
                let op = Conv2dBackwardInput { op, d_output, weight, d_input, added, epilogue, norm };
                self.emit(node, "backward input", op);
            }
            _ => {}
        }
    }

    /// In place if possible: the gradient of the residual or of the input then reuses the buffer of the output's
    /// gradient.
    fn batch_norm_backward(&mut self, id: NodeId, op: BatchNorm2d, d_output: ValueId) {
        let network = self.network;
        let node = &network.nodes[id];
        let (source, residual) = (node.inputs[0], self.fusion.residual[id]);
        let input = self.output(source);
        let from = self.fusion.root[source];
        let may_overwrite = self.mode == Mode::Training && self.needs_gradient[source];
        let in_place = may_overwrite && residual.is_none() && self.gradients[from].is_none();
        if in_place {
            self.gradients[from] = Some(d_output);
            self.pending[from] -= 1;
        }
        let NormGradient { activation, weight, bias, statistics, sums } = self.norm_gradient(id, op, d_output);
        // With a residual, the sums have multiplied the gradient by the activation's derivative.
        let activation = if residual.is_some() { Activation::Identity } else { activation };
        let step = |d_input| BatchNorm2dBackwardInput {
            op,
            activation,
            input,
            d_output,
            weight,
            bias,
            statistics,
            d_weight: sums.map(|[d_weight, _]| d_weight),
            d_bias: sums.map(|[_, d_bias]| d_bias),
            d_input,
        };
        if in_place {
            self.emit(node, "backward input", step(d_output));
        } else {
            self.contribute(node, source, step);
        }
        let Some(residual) = residual.filter(|&residual| self.needs_gradient[residual]) else { return };
        let to = self.fusion.root[residual];
        match self.gradients[to] {
            None => {
                self.gradients[to] = Some(d_output);
                self.pending[to] -= 1;
            }
            Some(_) => self.contribute_copy(node, residual, d_output),
        }
    }

    /// Emits what precedes a batch normalisation's input gradient: its sums, or with running statistics and a residual
    /// the gradient of the activation.
    fn norm_gradient(&mut self, id: NodeId, op: BatchNorm2d, d_output: ValueId) -> NormGradient {
        let node = &self.network.nodes[id];
        if self.has_batch_statistics(node) {
            let epilogue = self.norm_sums(id, op);
            if !self.fused_backward[id] {
                self.emit(node, "backward sums", epilogue.of_gradient(d_output));
            }
            let NormEpilogue { activation, weight, bias, saved: statistics, d_weight, d_bias, .. } = epilogue;
            return NormGradient { activation, weight, bias, statistics, sums: Some([d_weight, d_bias]) };
        }
        let (activation, channels) = (self.fusion.epilogue[id], op.input.channels);
        if self.fusion.residual[id].is_some() && activation != Activation::Identity {
            let (output, d_bias) = (self.output(id), None);
            let op = BiasActivationBackward { activation, channels, d_bias, output, d_output };
            self.emit(node, "backward activation", op);
        }
        let [weight, bias] = [node.weight, node.bias].map(|index| self.required_parameter(index, Region::Parameters));
        NormGradient { activation, weight, bias, statistics: self.statistics(node, false), sums: None }
    }

    /// The sums of a batch normalisation's gradient.
    fn norm_sums(&mut self, id: NodeId, op: BatchNorm2d) -> NormEpilogue<ValueId> {
        let node = &self.network.nodes[id];
        let [weight, d_weight] =
            [Region::Parameters, Region::Gradients].map(|region| self.required_parameter(node.weight, region));
        let [bias, d_bias] =
            [Region::Parameters, Region::Gradients].map(|region| self.required_parameter(node.bias, region));
        NormEpilogue {
            op,
            activation: self.fusion.epilogue[id],
            input: self.output(node.inputs[0]),
            weight,
            bias,
            saved: self.statistics(node, true),
            output: self.fusion.residual[id].map(|_| self.output(id)),
            d_weight,
            d_bias,
        }
    }

    /// The same as an epilogue of the operator that is about to write the gradient of `output`; `None` if a batch
    /// normalisation did not compute it, or if other operators have yet to contribute.
    fn norm_epilogue(&mut self, output: NodeId) -> Option<NormEpilogue<ValueId>> {
        let id = self.fusion.root[output];
        let Operator::BatchNorm2d(op) = self.network.nodes[id].operator else { return None };
        if self.pending[id] > 1 || !self.has_batch_statistics(&self.network.nodes[id]) {
            return None;
        }
        self.fused_backward[id] = true;
        Some(self.norm_sums(id, op))
    }

    /// Advances the dropout step, if the network has an active dropout.
    pub(super) fn end_dropout(&mut self) {
        let network = self.network;
        if let Some(node) =
            network.nodes.iter().find(|node| matches!(node.operator, Operator::Dropout(op) if op.probability > 0.0))
        {
            self.emit(node, "step", NextDropoutStep::default());
        }
    }

    /// The epilogue for the operator that writes the gradient of `input`: the backward pass of the activation and bias
    /// of the layer that computed it. `None` if several operators contribute to that gradient, or if the layer does not
    /// have `channels` columns.
    fn gradient_epilogue(&mut self, input: NodeId, channels: usize) -> Option<GradientEpilogue<ValueId>> {
        let producer = self.fusion.root[input];
        let node = &self.network.nodes[producer];
        let is_layer = matches!(node.operator, Operator::Conv2d(_) | Operator::Linear(_));
        if !is_layer || !self.fusion.has_one_reader(producer) || node.shape.channels != channels {
            return None;
        }
        let (activation, d_bias) = (self.fusion.epilogue[producer], self.parameter_gradient(node.bias));
        self.fused_backward[producer] = true;
        let needed = d_bias.is_some() || activation != Activation::Identity;
        let relu_mask = self.relu_masks[producer];
        needed.then(|| GradientEpilogue { activation, output: self.output(producer), relu_mask, d_bias })
    }

    /// Adds a step that writes one operator's contribution to the gradient of `input`. The first contribution is
    /// written to the gradient's buffer, each later one to a separate buffer that is then added.
    fn contribute<O: Into<Op<ValueId>>>(&mut self, node: &Node, input: NodeId, op: impl FnOnce(ValueId) -> O) {
        if !self.needs_gradient[input] {
            return;
        }
        let root = self.fusion.root[input];
        let (len, earlier) = (self.network.nodes[input].shape.len(), self.gradients[root]);
        let target = self.next_value(Region::Arena, len);
        self.pending[root] -= 1;
        if earlier.is_none() {
            self.gradients[root] = Some(target);
        }
        self.emit(node, "backward input", op(target));
        if let Some(sum) = earlier {
            self.emit(node, "backward sum", Add { a: sum, b: target, output: sum });
        }
    }

    /// Like [`Self::contribute`], for a contribution equal to `d_output`.
    fn contribute_copy(&mut self, node: &Node, input: NodeId, d_output: ValueId) {
        match self.gradients[self.fusion.root[input]] {
            Some(sum) if self.needs_gradient[input] => {
                self.pending[self.fusion.root[input]] -= 1;
                self.emit(node, "backward sum", Add { a: sum, b: d_output, output: sum });
            }
            _ => self.contribute(node, input, |output| CopyBuffer { input: d_output, output }),
        }
    }
}

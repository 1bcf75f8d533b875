//! The backward half of the schedule: each operator's gradients, in reverse, summed where an activation feeds several
//! operators.

use super::schedule::Scheduler;
use super::{StepKind, ValueId};
use crate::network::{Node, NodeId, Operator};
use crate::ops::{Activation, BatchNorm2d, ChannelCopy, GradientEpilogue, Region};

impl Scheduler<'_> {
    /// The buffer of a node's gradient, made at its first use.
    pub(super) fn gradient(&mut self, id: NodeId) -> ValueId {
        let root = self.fusion.root[id];
        if let Some(value) = self.gradients[root] {
            return value;
        }
        let value = self.value(Region::Arena, self.network.nodes[root].shape.len());
        *self.gradients[root].insert(value)
    }

    pub(super) fn backward(&mut self, id: NodeId) {
        let network = self.network;
        let node = &network.nodes[id];
        if self.fusion.root[id] != id || !self.needs_gradient[id] {
            return;
        }
        let (d_output, output) = (self.gradient(id), self.output(id));
        match node.operator {
            Operator::Input | Operator::Flatten => {}
            Operator::Conv2d(_) | Operator::Linear(_) => self.product_backward(id, d_output, output),
            Operator::BatchNorm2d(op) => self.batch_norm_backward(id, op, d_output, output),
            Operator::MaxPool2d(op) => {
                let Some(argmax) = self.argmax[id] else { return };
                let epilogue = self.gradient_epilogue(node.inputs[0], op.input.channels);
                let epilogue = epilogue.map(|epilogue| epilogue.map(|_| output));
                let mut used = vec![d_output, argmax];
                used.extend(epilogue.into_iter().flat_map(GradientEpilogue::reads));
                self.contribute(node, node.inputs[0], &used, |d_input| StepKind::MaxPool2dBackward {
                    op,
                    d_output,
                    argmax,
                    d_input,
                    epilogue,
                });
            }
            Operator::AvgPool2d(_)
            | Operator::AdaptiveAvgPool2d(_)
            | Operator::Lrn(_)
            | Operator::Dropout(_)
            | Operator::Subsample(_)
            | Operator::Activation(_) => self.unary_backward(node, d_output, output),
            Operator::Add => {
                for &input in &node.inputs {
                    self.contribute_copy(node, input, d_output);
                }
            }
            Operator::Concat => self.concat_backward(node, d_output),
        }
    }

    /// Of operators with one input and no parameters.
    fn unary_backward(&mut self, node: &Node, d_output: ValueId, output: ValueId) {
        let (source, len) = (node.inputs[0], node.shape.len());
        match node.operator {
            Operator::AvgPool2d(op) => self
                .contribute(node, source, &[d_output], |d_input| StepKind::AvgPool2dBackward { op, d_output, d_input }),
            Operator::AdaptiveAvgPool2d(op) => self.contribute(node, source, &[d_output], |d_input| {
                StepKind::AdaptiveAvgPool2dBackward { op, d_output, d_input }
            }),
            Operator::Lrn(op) => {
                let (rows, input) = (node.shape.pixels(), self.output(source));
                self.contribute(node, source, &[input, d_output], |d_input| StepKind::LrnBackward {
                    op,
                    rows,
                    input,
                    d_output,
                    d_input,
                });
            }
            Operator::Dropout(op) => self.contribute(node, source, &[d_output], |d_input| StepKind::Dropout {
                op,
                len,
                input: d_output,
                output: d_input,
            }),
            Operator::Activation(op) => {
                self.contribute(node, source, &[output, d_output], |d_input| StepKind::ActivationBackward {
                    op,
                    len,
                    output,
                    d_output,
                    d_input,
                });
            }
            Operator::Subsample(op) => self
                .contribute(node, source, &[d_output], |d_input| StepKind::SubsampleBackward { op, d_output, d_input }),
            _ => {}
        }
    }

    fn product_backward(&mut self, id: NodeId, d_output: ValueId, output: ValueId) {
        let network = self.network;
        let node = &network.nodes[id];
        let activation = self.fusion.epilogue[id];
        let d_bias = self.parameter(node.bias, Region::Gradients);
        if !self.fused_backward[id] && (d_bias.is_some() || activation != Activation::Identity) {
            let (rows, channels) = (node.shape.pixels(), node.shape.channels);
            let kind = StepKind::BiasActivationBackward { activation, rows, channels, d_bias, output, d_output };
            self.emit(node, "backward bias", &[output, d_output], kind);
        }
        let input = self.output(node.inputs[0]);
        let (weight, d_weight) = (self.weight(node, Region::Parameters), self.weight(node, Region::Gradients));
        let (kind, channels) = match node.operator {
            Operator::Conv2d(op) => {
                (StepKind::Conv2dBackwardWeight { op, d_weight, input, d_output }, op.input.channels)
            }
            Operator::Linear(op) => {
                let d_bias = self.signs[id].and(d_bias);
                (StepKind::LinearBackwardWeight { op, d_weight, d_bias, input, d_output }, op.in_features)
            }
            _ => return,
        };
        if !node.weight.is_some_and(|weight| network.is_frozen(weight)) {
            self.emit(node, "backward weight", &[input, d_output], kind);
        }
        if !self.needs_gradient[node.inputs[0]] {
            return;
        }
        let epilogue = self.gradient_epilogue(node.inputs[0], channels);
        let mut used = vec![d_output];
        used.extend(epilogue.into_iter().flat_map(GradientEpilogue::reads));
        let to = node.inputs[0];
        match node.operator {
            Operator::Conv2d(op) => self.contribute(node, to, &used, |d_input| StepKind::Conv2dBackwardInput {
                op,
                weight,
                d_output,
                d_input,
                epilogue,
            }),
            Operator::Linear(op) => self.contribute(node, to, &used, |d_input| StepKind::LinearBackwardInput {
                op,
                weight,
                d_output,
                d_input,
                epilogue,
            }),
            _ => {}
        }
    }

    /// Where possible in place, so that the gradient of the output becomes that of the residual or of the input.
    fn batch_norm_backward(&mut self, id: NodeId, op: BatchNorm2d, d_output: ValueId, output: ValueId) {
        let network = self.network;
        let node = &network.nodes[id];
        let (source, residual) = (node.inputs[0], self.fusion.residual[id]);
        let input = self.output(source);
        let from = self.fusion.root[source];
        let in_place = residual.is_none() && self.needs_gradient[source] && self.gradients[from].is_none();
        if in_place {
            self.gradients[from] = Some(d_output);
        }
        let (activation, saved) = (self.fusion.epilogue[id], self.saved(node));
        let [weight, d_weight] = [Region::Parameters, Region::Gradients].map(|region| self.weight(node, region));
        let [bias, d_bias] = [Region::Parameters, Region::Gradients].map(|region| self.bias(node, region));
        let output = residual.map(|_| output);
        let step = |d_input| StepKind::BatchNorm2dBackward {
            op,
            activation,
            weight,
            bias,
            saved,
            d_weight,
            d_bias,
            input,
            output,
            d_output,
            d_input,
        };
        let used: Vec<ValueId> = [input, d_output].into_iter().chain(output).collect();
        match (in_place, self.needs_gradient[source]) {
            (true, _) => self.emit(node, "backward", &used, step(Some(d_output))),
            (false, true) => self.contribute(node, source, &used, |d_input| step(Some(d_input))),
            (false, false) => self.emit(node, "backward", &used, step(None)),
        }
        let Some(residual) = residual.filter(|&residual| self.needs_gradient[residual]) else { return };
        let to = self.fusion.root[residual];
        match self.gradients[to] {
            None => self.gradients[to] = Some(d_output),
            Some(_) => self.contribute_copy(node, residual, d_output),
        }
    }

    /// Ends the step that the masks belong to, where there are any.
    pub(super) fn end_dropout(&mut self) {
        let network = self.network;
        if let Some(node) =
            network.nodes.iter().find(|node| matches!(node.operator, Operator::Dropout(op) if op.probability > 0.0))
        {
            self.emit(node, "step", &[], StepKind::NextDropoutStep);
        }
    }

    /// What is left to do for the layer that made `input` once its gradient is there, given to the operator that writes
    /// it: where that is one operator, which sees `channels` columns as that layer does.
    fn gradient_epilogue(&mut self, input: NodeId, channels: usize) -> Option<GradientEpilogue<ValueId>> {
        let producer = self.fusion.root[input];
        let node = &self.network.nodes[producer];
        let is_layer = matches!(node.operator, Operator::Conv2d(_) | Operator::Linear(_));
        if !is_layer || !self.fusion.has_one_reader(producer) || node.shape.channels != channels {
            return None;
        }
        let (activation, d_bias) = (self.fusion.epilogue[producer], self.parameter(node.bias, Region::Gradients));
        self.fused_backward[producer] = true;
        let needed = d_bias.is_some() || activation != Activation::Identity;
        let signs = self.signs[producer];
        needed.then(|| GradientEpilogue { activation, output: self.output(producer), signs, d_bias })
    }

    fn concat_backward(&mut self, node: &Node, d_output: ValueId) {
        let mut source_offset = 0;
        for &input in &node.inputs {
            let channels = self.network.nodes[input].shape.channels;
            let op = ChannelCopy {
                pixels: node.shape.pixels(),
                channels,
                source_channels: node.shape.channels,
                source_offset,
                target_channels: channels,
                target_offset: 0,
            };
            self.contribute(node, input, &[d_output], |target| StepKind::CopyChannels { op, source: d_output, target });
            source_offset += channels;
        }
    }

    /// Adds a step that writes one operator's share of the gradient of `input`: to the gradient itself where it is
    /// the first, else to a buffer of its own that is then added.
    fn contribute(&mut self, node: &Node, input: NodeId, uses: &[ValueId], kind: impl Fn(ValueId) -> StepKind) {
        if !self.needs_gradient[input] {
            return;
        }
        let (len, earlier) = (self.network.nodes[input].shape.len(), self.gradients[self.fusion.root[input]]);
        self.clock += 1;
        let target = match earlier {
            None => self.gradient(input),
            Some(_) => self.value(Region::Arena, len),
        };
        self.clock -= 1;
        let mut used = uses.to_vec();
        used.push(target);
        self.emit(node, "backward input", &used, kind(target));
        if let Some(sum) = earlier {
            self.emit(node, "backward sum", &[target, sum], StepKind::Accumulate { len, term: target, sum });
        }
    }

    /// As [`Self::contribute`], where the share is `d_output` itself.
    fn contribute_copy(&mut self, node: &Node, input: NodeId, d_output: ValueId) {
        let len = node.shape.len();
        match self.gradients[self.fusion.root[input]] {
            Some(sum) if self.needs_gradient[input] => {
                self.emit(node, "backward sum", &[d_output, sum], StepKind::Accumulate { len, term: d_output, sum });
            }
            _ => self.contribute(node, input, &[d_output], |target| StepKind::Copy { len, source: d_output, target }),
        }
    }
}

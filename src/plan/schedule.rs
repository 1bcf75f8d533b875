//! Turns a network into steps: the forward pass in node order; the backward pass is in `backward.rs`.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::fusion::{Fusion, fuse};
use super::memory::{Lifetime, Value, place};
use super::{Matrix, Mode, Plan, ValueId};
use crate::network::{Network, Node, NodeId, Operator};
use crate::ops::{
    Activation, ActivationForward, Add, BatchNorm2d, BatchNorm2dForward, ChannelCopy, Conv2dForward, CopyChannels,
    DropoutPass, Linear, LinearForward, MaxPool2dForward, MemorySizes, MuonDirection, Op, OptimizerUpdate,
    PoolEpilogue, Region, Span, StatisticsEpilogue, Step, TestViews,
};

impl Plan {
    /// Plans `network` for batches of up to `max_batch`.
    pub fn new(network: &Network, mode: Mode, max_batch: usize) -> Result<Self> {
        ensure!(max_batch > 0, "a batch needs at least one sample");
        let mut scheduler = Scheduler::new(network, mode);
        for id in (0..network.nodes.len()).filter(|&id| scheduler.live[id]).collect::<Vec<_>>() {
            scheduler.forward(id);
        }
        let forward = std::mem::take(&mut scheduler.steps);
        let logits = scheduler.output(network.nodes.len() - 1);
        scheduler.clock += 1; // the loss reads the logits
        scheduler.touch(logits);
        let mut heads = Vec::new();
        if mode == Mode::Training {
            let main = (network.nodes.len() - 1, None);
            let auxiliary = network.auxiliary.iter().map(|&(id, weight)| (id, Some(weight)));
            heads = [main].into_iter().chain(auxiliary).map(|(id, weight)| scheduler.head(id, weight)).collect();
            for id in (0..network.nodes.len()).rev() {
                scheduler.backward(id);
            }
            scheduler.end_dropout();
            scheduler.touch(logits); // the logits may be read after the step
        }
        let kept = if let Mode::Attribution(_) = mode { scheduler.attribution() } else { Vec::new() };
        let input = scheduler.output(0);
        let mut whole = |region| scheduler.fixed(Span::new(region, 0, network.parameter_count()));
        let (whole_regions, gradient_sum) = (OptimizerUpdate::REGIONS.map(&mut whole), whole(Region::GradientSum));
        let gradients = Span::new(Region::Gradients, 0, network.parameter_count());
        let trained_gradients = scheduler.fixed(gradients.from(network.frozen_len()));
        let matrices = scheduler.matrices();
        let (places, arena, indices) = place(&scheduler.values, max_batch);
        Ok(Self {
            mode,
            max_batch,
            forward,
            backward: scheduler.steps,
            kept,
            input,
            input_shape: network.input(),
            logits,
            heads,
            whole_regions,
            gradient_sum,
            trained_gradients,
            classes: network.classes(),
            views: TestViews::None,
            average: None,
            unmixed: None,
            parameter_count: network.parameter_count(),
            groups: network.groups()?,
            matrices,
            places,
            sizes: sizes(network, mode, max_batch, arena, indices),
        })
    }
}

/// The memory sizes of a plan, without optimiser state. A training step has a gradient for every parameter, and saves
/// as many batch statistics as there are running statistics.
fn sizes(network: &Network, mode: Mode, max_batch: usize, arena: usize, indices: usize) -> MemorySizes {
    let training = usize::from(mode == Mode::Training);
    let directions = |index: usize| {
        let (rows, len) = (network.parameters[index].layout.file_shape()[0], network.parameters[index].len());
        MuonDirection::scratch_len(rows, len / rows)
    };
    let sample_columns = network.nodes.iter().map(sample_columns).max().unwrap_or(0);
    MemorySizes {
        arena,
        indices,
        sample_arena: arena.div_ceil(max_batch),
        sample_indices: indices.div_ceil(max_batch),
        parameters: network.parameter_count(),
        gradients: training * network.parameter_count(),
        statistics: (1 + training) * network.statistics_len(),
        columns: sample_columns * max_batch,
        sample_columns,
        directions: training * network.matrices().into_iter().map(directions).max().unwrap_or(0),
        max_channels: network.nodes.iter().map(|node| node.shape.channels).max().unwrap_or(0),
        max_batch,
        ..MemorySizes::default()
    }
}

/// Elements of a convolution's im2col for one sample; 0 for other nodes and for convolutions that need no im2col.
fn sample_columns(node: &Node) -> usize {
    match node.operator {
        Operator::Conv2d(conv) if conv.is_plain() && !conv.is_pointwise() => node.shape.pixels() * conv.patch_len(),
        _ => 0,
    }
}

pub(super) struct Scheduler<'a> {
    pub(super) network: &'a Network,
    pub(super) mode: Mode,
    pub(super) fusion: Fusion,
    /// The nodes that are computed: all of them in training, otherwise those outside auxiliary heads.
    pub(super) live: Vec<bool>,
    /// Whether a node, or one before it, has a trained parameter; in an attribution, whether it is live.
    pub(super) needs_gradient: Vec<bool>,
    pub(super) steps: Vec<Step<ValueId>>,
    pub(super) clock: usize,
    pub(super) values: Vec<Value>,
    fixed: HashMap<Span, ValueId>,
    pub(super) outputs: Vec<Option<ValueId>>,
    pub(super) argmax: Vec<Option<ValueId>>,
    pub(super) relu_masks: Vec<Option<ValueId>>,
    pub(super) gradients: Vec<Option<ValueId>>,
    /// How many operators have yet to contribute to a gradient.
    pub(super) pending: Vec<usize>,
    /// Layers with an activation and bias, and batch normalisations, whose output's gradient is written by an operator
    /// that handles them in its epilogue.
    pub(super) fused_backward: Vec<bool>,
}

impl<'a> Scheduler<'a> {
    fn new(network: &'a Network, mode: Mode) -> Self {
        let count = network.nodes.len();
        let mut needs_gradient = vec![false; count];
        let live = match mode {
            Mode::Training => vec![true; count],
            Mode::Inference | Mode::Attribution(_) => network.evaluated_nodes(),
        };
        for (id, node) in network.nodes.iter().enumerate() {
            needs_gradient[id] = match mode {
                Mode::Attribution(_) => live[id],
                _ => network.trains(node) || node.inputs.iter().any(|&input| needs_gradient[input]),
            };
        }
        let fusion = fuse(network, mode, &live);
        let mut scheduler = Self {
            network,
            mode,
            pending: fusion.readers().to_vec(),
            fusion,
            live,
            needs_gradient,
            steps: Vec::new(),
            clock: 0,
            values: Vec::new(),
            fixed: HashMap::new(),
            outputs: vec![None; count],
            argmax: vec![None; count],
            relu_masks: vec![None; count],
            gradients: vec![None; count],
            fused_backward: vec![false; count],
        };
        scheduler.outputs[0] = Some(scheduler.value(Region::Arena, network.input().len(), 0));
        scheduler
    }

    /// A new buffer of `len` elements per sample, alive from step `first`.
    pub(super) fn value(&mut self, region: Region, len: usize, first: usize) -> ValueId {
        self.values.push(Value::Planned(region, Lifetime { len, first, last: first }));
        self.values.len() - 1
    }

    /// A new buffer, alive from the next step.
    pub(super) fn next_value(&mut self, region: Region, len: usize) -> ValueId {
        self.value(region, len, self.clock + 1)
    }

    /// The buffer for a fixed span.
    fn fixed(&mut self, span: Span) -> ValueId {
        *self.fixed.entry(span).or_insert_with(|| {
            self.values.push(Value::Fixed(span));
            self.values.len() - 1
        })
    }

    /// Keeps a value alive until now.
    pub(super) fn touch(&mut self, value: ValueId) {
        if let Value::Planned(_, lifetime) = &mut self.values[value] {
            lifetime.last = self.clock;
        }
    }

    /// Appends a step.
    pub(super) fn emit(&mut self, node: &Node, what: &str, op: impl Into<Op<ValueId>>) {
        let op = op.into();
        self.clock += 1;
        let operands = op.operands();
        operands.reads().into_iter().chain(operands.writes()).for_each(|value| self.touch(value));
        self.steps.push(Step { label: format!("{} {what}", node.name), op });
    }

    /// The buffer of a node's output, created at its first use.
    pub(super) fn output(&mut self, id: NodeId) -> ValueId {
        let root = self.fusion.root[id];
        if let Some(value) = self.outputs[root] {
            return value;
        }
        let value = self.next_value(Region::Arena, self.network.nodes[root].shape.len());
        *self.outputs[root].insert(value)
    }

    pub(super) fn parameter(&mut self, index: Option<usize>, region: Region) -> Option<ValueId> {
        let parameter = &self.network.parameters[index?];
        Some(self.fixed(Span::new(region, parameter.offset, parameter.len())))
    }

    /// Whether the plan computes the gradient of a parameter.
    pub(super) fn trains_parameter(&self, index: usize) -> bool {
        self.mode == Mode::Training && !self.network.is_frozen(index)
    }

    /// The gradient of a parameter, if it has one.
    pub(super) fn parameter_gradient(&mut self, index: Option<usize>) -> Option<ValueId> {
        self.parameter(index.filter(|&index| self.trains_parameter(index)), Region::Gradients)
    }

    /// Whether a batch normalisation uses the statistics of the batch, and not the running statistics.
    pub(super) fn has_batch_statistics(&self, node: &Node) -> bool {
        self.mode == Mode::Training && !self.network.is_frozen_norm(node)
    }

    /// A parameter that every node of its kind has: the weight of a convolution, linear layer or batch normalisation,
    /// and the bias of a batch normalisation.
    pub(super) fn required_parameter(&mut self, index: Option<usize>, region: Region) -> ValueId {
        self.parameter(index, region).expect("the builder creates this parameter for every node of the kind")
    }

    /// The running statistics of a batch normalisation, or the batch statistics that it saves in training, which are
    /// stored after all running statistics in the same order.
    pub(super) fn statistics(&mut self, node: &Node, saved: bool) -> ValueId {
        let range = node.statistics.map_or(0..0, |index| self.network.statistics[index].range());
        let offset = if saved { self.network.statistics_len() } else { 0 };
        self.fixed(Span::new(Region::Statistics, offset + range.start, range.len()))
    }

    /// The parameters that Muon updates.
    fn matrices(&mut self) -> Vec<Matrix> {
        let network = self.network;
        let matrix = |index: usize| {
            let parameter = &network.parameters[index];
            let value = |scheduler: &mut Self, region| scheduler.required_parameter(Some(index), region);
            let (weight, gradient) = (value(self, Region::Parameters), value(self, Region::Gradients));
            let (momentum, rows) = (value(self, Region::Momentum), parameter.layout.file_shape()[0]);
            Matrix { name: parameter.name.clone(), rows, weight, gradient, momentum }
        };
        network.matrices().into_iter().map(matrix).collect()
    }

    fn forward(&mut self, id: NodeId) {
        let network = self.network;
        let node = &network.nodes[id];
        if self.fusion.absorbed[id] || matches!(node.operator, Operator::Input) {
            return;
        }
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&input| self.output(input)).collect();
        let (input, output) = (inputs[0], self.output(id));
        let activation = self.fusion.epilogue[id];
        let op: Op<ValueId> = match node.operator {
            Operator::Input | Operator::Flatten => return,
            Operator::Conv2d(op) => {
                let weight = self.required_parameter(node.weight, Region::Parameters);
                let (bias, pool) = (self.parameter(node.bias, Region::Parameters), self.pool_epilogue(id));
                let statistics = self.fusion.statistics[id].and_then(|norm| self.statistics_epilogue(norm));
                let residual = self.fusion.residual[id].map(|residual| self.output(residual));
                Conv2dForward { op, activation, weight, bias, residual, input, output, pool, statistics }.into()
            }
            Operator::Linear(op) => {
                let weight = self.required_parameter(node.weight, Region::Parameters);
                let (bias, relu_mask) = (self.parameter(node.bias, Region::Parameters), self.relu_mask(id, op));
                LinearForward { op, activation, weight, bias, input, output, relu_mask }.into()
            }
            Operator::BatchNorm2d(op) => return self.batch_norm_forward(id, op, input),
            Operator::MaxPool2d(op) => MaxPool2dForward { op, input, output, argmax: self.argmax(id) }.into(),
            Operator::Layer(layer) => layer.forward(input, output),
            Operator::Dropout(op) => DropoutPass { op, input, output }.into(),
            Operator::Activation(op) => ActivationForward { op, input, output }.into(),
            Operator::Add => Add { a: input, b: inputs[1], output }.into(),
            Operator::Concat => {
                for ((_, op), input) in self.concat_copies(node).zip(inputs) {
                    self.emit(node, "forward", CopyChannels { op, input, output });
                }
                return;
            }
        };
        self.emit(node, "forward", op);
    }

    /// In evaluation, and if no gradient passes, the output overwrites the input if nothing else reads the input.
    fn batch_norm_forward(&mut self, id: NodeId, op: BatchNorm2d, input: ValueId) {
        let network = self.network;
        let (node, source) = (&network.nodes[id], network.nodes[id].inputs[0]);
        let training = self.has_batch_statistics(node);
        let is_last_read = self.mode == Mode::Inference || !self.needs_gradient[id];
        let in_place = is_last_read && self.fusion.root[source] != 0 && self.fusion.has_one_reader(source);
        if in_place {
            self.outputs[id] = Some(input);
        }
        let output = self.output(id);
        let residual = self.fusion.residual[id].map(|residual| self.output(residual));
        let is_fused = self.fusion.statistics[self.fusion.root[source]] == Some(id);
        if let Some(statistics) = self.statistics_epilogue(id).filter(|_| training && !is_fused) {
            self.emit(node, "statistics", statistics.of_input(input));
        }
        let op = BatchNorm2dForward {
            op,
            activation: self.fusion.epilogue[id],
            weight: self.required_parameter(node.weight, Region::Parameters),
            bias: self.required_parameter(node.bias, Region::Parameters),
            statistics: self.statistics(node, training),
            training,
            input,
            residual,
            output,
        };
        self.emit(node, "forward", op);
    }

    /// The statistics that a batch normalisation needs in training.
    fn statistics_epilogue(&mut self, id: NodeId) -> Option<StatisticsEpilogue<ValueId>> {
        let node = &self.network.nodes[id];
        let Operator::BatchNorm2d(op) = node.operator else { return None };
        Some(StatisticsEpilogue { op, running: self.statistics(node, false), saved: self.statistics(node, true) })
    }

    /// The buffer of a pooling's argmax, if a backward pass follows.
    fn argmax(&mut self, id: NodeId) -> Option<ValueId> {
        if self.mode != Mode::Inference && self.needs_gradient[id] {
            self.argmax[id] = Some(self.next_value(Region::Indices, self.network.nodes[id].shape.len()));
        }
        self.argmax[id]
    }

    /// The buffer of a linear layer's ReLU mask, if the ReLU's gradient is fused into another linear layer's input
    /// gradient.
    fn relu_mask(&mut self, id: NodeId, op: Linear) -> Option<ValueId> {
        let is_reader = |(reader, node): (NodeId, &Node)| {
            matches!(node.operator, Operator::Linear(_)) && self.live[reader] && self.fusion.root[node.inputs[0]] == id
        };
        let relu = self.fusion.epilogue[id] == Activation::Relu && self.fusion.has_one_reader(id);
        let node = &self.network.nodes[id];
        // The weight gradient may have to sum the bias gradient.
        let is_whole = node.weight.iter().chain(&node.bias).all(|&parameter| !self.network.is_frozen(parameter));
        let trained = self.mode == Mode::Training && self.needs_gradient[id] && is_whole;
        if relu && trained && self.network.nodes.iter().enumerate().any(is_reader) {
            self.relu_masks[id] = Some(self.next_value(Region::Indices, op.relu_mask_len()));
        }
        self.relu_masks[id]
    }

    /// The pooling fused into a convolution.
    fn pool_epilogue(&mut self, id: NodeId) -> Option<PoolEpilogue<ValueId>> {
        let (pool, op) = self.fusion.pool[id]?;
        Some(PoolEpilogue { op, output: self.output(pool), argmax: self.argmax(pool) })
    }

    /// The inputs of a concatenation, each with its copy into the output.
    pub(super) fn concat_copies(&self, node: &'a Node) -> impl Iterator<Item = (NodeId, ChannelCopy)> + use<'a> {
        let (network, mut target_offset) = (self.network, 0);
        node.inputs.iter().map(move |&input| {
            let channels = network.nodes[input].shape.channels;
            let (pixels, target_channels) = (node.shape.pixels(), node.shape.channels);
            target_offset += channels;
            let (source_channels, target_offset) = (channels, target_offset - channels);
            (input, ChannelCopy { pixels, channels, source_channels, source_offset: 0, target_channels, target_offset })
        })
    }
}

//! From the network to steps: forward in the order of the nodes; `backward.rs` has the way back.

use anyhow::{Result, ensure};

use super::fusion::{Fusion, fuse};
use super::memory::{Lifetime, place};
use super::{Mode, Plan, Step, StepKind, ValueId};
use crate::network::{Network, Node, NodeId, Operator};
use crate::ops::{Activation, BatchNorm2d, ChannelCopy, Linear, PoolEpilogue, Region, Span};

/// Plans `network`; see [`Plan::new`].
pub(super) fn schedule(network: &Network, mode: Mode, max_batch: usize) -> Result<Plan> {
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
        for (node, auxiliary) in
            [main].into_iter().chain(network.auxiliary.iter().map(|&(id, weight)| (id, Some(weight))))
        {
            heads.push(scheduler.head(node, auxiliary));
        }
        for id in (0..network.nodes.len()).rev() {
            scheduler.backward(id);
        }
        scheduler.end_dropout();
        scheduler.touch(logits); // whoever looks at the logits does so after the step
    }
    let input = scheduler.output(0);
    let (spans, arena_len, indices_len) = place(&scheduler.values, max_batch);
    let mut heads = heads.into_iter().map(|head| head.placed(&spans));
    let loss_gradient = heads.next().map(|(_, gradient)| gradient);
    Ok(Plan {
        mode,
        max_batch,
        forward,
        backward: scheduler.steps,
        input: spans[input],
        logits: spans[logits],
        loss_gradient,
        auxiliary: heads.collect(),
        classes: network.classes(),
        parameter_count: network.parameter_count(),
        statistics_len: network.statistics_len(),
        spans,
        arena_len,
        indices_len,
        sample_columns: network.nodes.iter().map(sample_columns).max().unwrap_or(0),
        max_channels: network.nodes.iter().map(|node| node.shape.channels).max().unwrap_or(0),
    })
}

/// Elements of a convolution's im2col of one sample; none where it needs none.
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
    /// What is computed: all in training, without auxiliary heads in evaluation.
    live: Vec<bool>,
    /// Whether a parameter lies at or before a node, so that a gradient has somewhere to go.
    pub(super) needs_gradient: Vec<bool>,
    pub(super) steps: Vec<Step>,
    pub(super) clock: usize,
    /// Per value, with the length per sample.
    pub(super) values: Vec<(Region, Lifetime)>,
    pub(super) outputs: Vec<Option<ValueId>>,
    pub(super) argmax: Vec<Option<ValueId>>,
    pub(super) signs: Vec<Option<ValueId>>,
    pub(super) gradients: Vec<Option<ValueId>>,
    /// Layers whose activation and bias are done by what writes the gradient of their output.
    pub(super) fused_backward: Vec<bool>,
    /// What the latest weight gradient reads: it may run beside the steps that follow, up to the next one.
    pub(super) read_beside: Vec<ValueId>,
}

impl<'a> Scheduler<'a> {
    fn new(network: &'a Network, mode: Mode) -> Self {
        let count = network.nodes.len();
        let mut needs_gradient = vec![false; count];
        for (id, node) in network.nodes.iter().enumerate() {
            let own = node.weight.is_some_and(|weight| !network.is_frozen(weight)) || node.bias.is_some();
            needs_gradient[id] = own || node.inputs.iter().any(|&input| needs_gradient[input]);
        }
        let live = match mode {
            Mode::Training => vec![true; count],
            Mode::Inference => network.evaluated(),
        };
        let mut scheduler = Self {
            network,
            mode,
            fusion: fuse(network, mode, &live),
            live,
            needs_gradient,
            steps: Vec::new(),
            clock: 0,
            values: Vec::new(),
            outputs: vec![None; count],
            argmax: vec![None; count],
            signs: vec![None; count],
            gradients: vec![None; count],
            fused_backward: vec![false; count],
            read_beside: Vec::new(),
        };
        scheduler.outputs[0] = Some(scheduler.value(Region::Arena, network.input().len()));
        scheduler
    }

    pub(super) fn value(&mut self, region: Region, len: usize) -> ValueId {
        self.values.push((region, Lifetime { len, first: self.clock, last: self.clock }));
        self.values.len() - 1
    }

    /// Keeps a value alive until now.
    pub(super) fn touch(&mut self, value: ValueId) {
        self.values[value].1.last = self.clock;
    }

    /// Adds a step that uses `values`.
    pub(super) fn emit(&mut self, node: &Node, what: &str, values: &[ValueId], kind: StepKind) {
        self.clock += 1;
        values.iter().for_each(|&value| self.touch(value));
        if kind.is_weight_gradient() {
            self.read_beside = values.to_vec();
        }
        self.read_beside.clone().into_iter().for_each(|value| self.touch(value));
        self.steps.push(Step { label: format!("{} {what}", node.name), kind });
    }

    /// The buffer of a node's output, made at its first use.
    pub(super) fn output(&mut self, id: NodeId) -> ValueId {
        let root = self.fusion.root[id];
        if let Some(value) = self.outputs[root] {
            return value;
        }
        self.clock += 1; // it begins with the step that writes it
        let value = self.value(Region::Arena, self.network.nodes[root].shape.len());
        self.clock -= 1;
        *self.outputs[root].insert(value)
    }

    pub(super) fn parameter(&self, index: Option<usize>, region: Region) -> Option<Span> {
        index.map(|index| {
            let parameter = &self.network.parameters[index];
            Span::new(region, parameter.offset, parameter.len())
        })
    }

    /// The span of a node's weight, which convolutions and linear layers always have.
    pub(super) fn weight(&self, node: &Node, region: Region) -> Span {
        self.parameter(node.weight, region).unwrap_or(Span::new(region, 0, 0))
    }

    /// The span of a batch normalisation's bias, which it always has.
    pub(super) fn bias(&self, node: &Node, region: Region) -> Span {
        self.parameter(node.bias, region).unwrap_or(Span::new(region, 0, 0))
    }

    /// The running statistics of a batch normalisation.
    fn running(&self, node: &Node) -> Span {
        let range = node.statistics.map_or(0..0, |index| self.network.statistics[index].range());
        Span::new(Region::Statistics, range.start, range.len())
    }

    /// What a batch normalisation keeps of a training step: behind all running statistics, in the same order.
    pub(super) fn saved(&self, node: &Node) -> Span {
        let running = self.running(node);
        Span { offset: self.network.statistics_len() + running.offset, ..running }
    }

    fn forward(&mut self, id: NodeId) {
        let network = self.network;
        let node = &network.nodes[id];
        if self.fusion.absorbed[id] || matches!(node.operator, Operator::Input) {
            return;
        }
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&input| self.output(input)).collect();
        let output = self.output(id);
        let activation = self.fusion.epilogue[id];
        let (weight, bias) = (self.weight(node, Region::Parameters), self.parameter(node.bias, Region::Parameters));
        let (input, len) = (inputs[0], node.shape.len());
        let kind = match node.operator {
            Operator::Input | Operator::Flatten => return,
            Operator::Conv2d(op) => {
                let pool = self.pool_epilogue(id);
                StepKind::Conv2dForward { op, activation, weight, bias, input, output, pool }
            }
            Operator::Linear(op) => {
                let signs = self.signs(id, op);
                StepKind::LinearForward { op, activation, weight, bias, input, output, signs }
            }
            Operator::BatchNorm2d(op) => return self.batch_norm_forward(id, op, input),
            Operator::MaxPool2d(op) => StepKind::MaxPool2dForward { op, input, output, argmax: self.argmax(id) },
            Operator::AvgPool2d(op) => StepKind::AvgPool2dForward { op, input, output },
            Operator::AdaptiveAvgPool2d(op) => StepKind::AdaptiveAvgPool2dForward { op, input, output },
            Operator::Lrn(op) => StepKind::LrnForward { op, rows: node.shape.pixels(), input, output },
            Operator::Dropout(op) => StepKind::Dropout { op, len, input, output },
            Operator::Activation(op) => StepKind::ActivationForward { op, len, input, output },
            Operator::Add => StepKind::AddForward { len, a: input, b: inputs[1], output },
            Operator::Subsample(op) => StepKind::SubsampleForward { op, input, output },
            Operator::Concat => return self.concat_forward(node, &inputs, output),
        };
        let mut used = inputs;
        used.push(output);
        used.extend(self.argmax[id].into_iter().chain(self.signs[id]));
        if let StepKind::Conv2dForward { pool: Some(pool), .. } = kind {
            used.push(pool.output);
            used.extend(pool.argmax);
        }
        self.emit(node, "forward", &used, kind);
    }

    /// In evaluation it takes the place of its input, where nothing else reads that.
    fn batch_norm_forward(&mut self, id: NodeId, op: BatchNorm2d, input: ValueId) {
        let network = self.network;
        let (node, source) = (&network.nodes[id], network.nodes[id].inputs[0]);
        let in_place =
            self.mode == Mode::Inference && self.fusion.root[source] != 0 && self.fusion.has_one_reader(source);
        if in_place {
            self.outputs[id] = Some(input);
        }
        let output = self.output(id);
        let residual = self.fusion.residual[id].map(|residual| self.output(residual));
        let kind = StepKind::BatchNorm2dForward {
            op,
            activation: self.fusion.epilogue[id],
            weight: self.weight(node, Region::Parameters),
            bias: self.bias(node, Region::Parameters),
            running: self.running(node),
            saved: (self.mode == Mode::Training).then(|| self.saved(node)),
            input,
            residual,
            output,
        };
        let used: Vec<ValueId> = [input, output].into_iter().chain(residual).collect();
        self.emit(node, "forward", &used, kind);
    }

    /// The buffer of a pooling's argmax, where a backward pass follows.
    fn argmax(&mut self, id: NodeId) -> Option<ValueId> {
        if self.mode == Mode::Training && self.needs_gradient[id] {
            self.clock += 1; // it begins with the step that writes it
            self.argmax[id] = Some(self.value(Region::Indices, self.network.nodes[id].shape.len()));
            self.clock -= 1;
        }
        self.argmax[id]
    }

    /// Room for what a backend may keep of a linear layer's ReLU, where a linear layer's input gradient goes back through it.
    fn signs(&mut self, id: NodeId, op: Linear) -> Option<ValueId> {
        let is_reader = |(reader, node): (NodeId, &Node)| {
            matches!(node.operator, Operator::Linear(_)) && self.live[reader] && self.fusion.root[node.inputs[0]] == id
        };
        let relu = self.fusion.epilogue[id] == Activation::Relu && self.fusion.has_one_reader(id);
        let frozen = self.network.nodes[id].weight.is_some_and(|weight| self.network.is_frozen(weight));
        let trained = self.mode == Mode::Training && self.needs_gradient[id] && !frozen;
        if relu && trained && self.network.nodes.iter().enumerate().any(is_reader) {
            self.clock += 1; // it begins with the step that writes it
            self.signs[id] = Some(self.value(Region::Indices, op.signs_len()));
            self.clock -= 1;
        }
        self.signs[id]
    }

    /// The pooling that ends a convolution.
    fn pool_epilogue(&mut self, id: NodeId) -> Option<PoolEpilogue<ValueId>> {
        let (pool, op) = self.fusion.pool[id]?;
        Some(PoolEpilogue { op, output: self.output(pool), argmax: self.argmax(pool) })
    }

    fn concat_forward(&mut self, node: &Node, inputs: &[ValueId], target: ValueId) {
        let mut target_offset = 0;
        for (&source, &input) in inputs.iter().zip(&node.inputs) {
            let channels = self.network.nodes[input].shape.channels;
            let op = ChannelCopy {
                pixels: node.shape.pixels(),
                channels,
                source_channels: channels,
                source_offset: 0,
                target_channels: node.shape.channels,
                target_offset,
            };
            self.emit(node, "forward", &[source, target], StepKind::CopyChannels { op, source, target });
            target_offset += channels;
        }
    }
}

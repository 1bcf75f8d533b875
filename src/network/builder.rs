//! Builds a network node by node, checking every shape.

use anyhow::{Context, Result, bail, ensure};

use super::{FirstLayer, GroupRules, Initial, Layout, Network, Node, NodeId, Operator, Parameter, RunningStatistics};
use crate::ops::{Activation, AnyLayer, BatchNorm2d, Conv2d, Dropout, Linear};
use crate::shape::{Shape, Window};

/// The options of a convolution; the defaults are PyTorch's, for a 3×3 kernel and one output channel.
#[derive(Clone, Copy, Debug)]
pub struct Conv2dOptions {
    pub out_channels: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub groups: usize,
    pub dilation: usize,
    pub bias: bool,
    pub initial: ConvInitial,
}

/// The options of a batch normalisation; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug)]
pub struct NormOptions {
    pub epsilon: f32,
    pub momentum: f32,
    /// Whether training changes the scale; if not, it stays 1.
    pub learned_scale: bool,
}

impl Default for NormOptions {
    fn default() -> Self {
        Self { epsilon: 1e-5, momentum: 0.1, learned_scale: true }
    }
}

/// Initial weights of a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConvInitial {
    /// PyTorch's default.
    #[default]
    Uniform,
    /// Normal with variance 2 / fan_out (`kaiming_normal_(mode="fan_out")`), as in torchvision's networks.
    FanOut,
    /// The identity (`dirac_`), and PyTorch's default for output channels beyond the input channels.
    Identity,
    /// Edges in as many directions as there are output channels.
    Edges,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        let initial = ConvInitial::Uniform;
        Self { out_channels: 1, kernel: 3, stride: 1, padding: 0, groups: 1, dilation: 1, bias: true, initial }
    }
}

/// A network under construction. Layers are named like PyTorch's modules, so that weights load by name.
///
/// ```
/// use cnn_cuda::network::{Builder, Conv2dOptions};
/// use cnn_cuda::shape::{Shape, Window};
///
/// # fn main() -> anyhow::Result<()> {
/// let mut net = Builder::new("small", Shape::new(28, 28, 1));
/// let input = 0;
/// let x = net.conv2d("conv1", input, Conv2dOptions { out_channels: 16, kernel: 5, ..Default::default() })?;
/// let x = net.relu(x)?;
/// let x = net.max_pool2d(x, Window { kernel: 2, stride: 2, padding: 0 })?;
/// let x = net.flatten(x);
/// net.linear("fc1", x, 10)?;
/// let network = net.finish()?;
/// assert_eq!(network.parameter_count(), (16 * 5 * 5 + 16) + (10 * 16 * 12 * 12 + 10));
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    pub(super) network: Network,
    /// For each node with a vector as output, the shapes of the activations that were flattened into it. They determine
    /// the order of a linear layer's columns in PyTorch's files.
    segments: Vec<Vec<Shape>>,
}

impl Builder {
    /// A network with only its input, which is node 0.
    pub fn new(name: &str, input: Shape) -> Self {
        let node = Node {
            name: "input".into(),
            operator: Operator::Input,
            inputs: Vec::new(),
            shape: input,
            weight: None,
            bias: None,
            statistics: None,
        };
        let network = Network {
            name: name.into(),
            nodes: vec![node],
            parameters: Vec::new(),
            statistics: Vec::new(),
            auxiliary: Vec::new(),
            first_layer: FirstLayer::default(),
            group_rules: GroupRules::default(),
            frozen: Vec::new(),
            cells: Vec::new(),
        };
        Self { network, segments: vec![vec![input]] }
    }

    pub fn shape(&self, node: NodeId) -> Shape {
        self.network.nodes[node].shape
    }

    /// A convolution; `name` is PyTorch's module path.
    pub fn conv2d(&mut self, name: &str, input: NodeId, options: Conv2dOptions) -> Result<NodeId> {
        let Conv2dOptions { out_channels, kernel, stride, padding, groups, dilation, bias, initial } = options;
        ensure!(out_channels > 0, "{name}: a convolution needs at least one output channel");
        let window = Window { kernel, stride, padding };
        let conv = Conv2d { input: self.shape(input), out_channels, window, groups, dilation };
        let shape = conv.output().with_context(|| name.to_string())?;
        let layout = Layout::Conv { out_channels, in_channels: conv.input.channels / groups, kernel };
        let fan_in = Initial::Uniform { fan_in: conv.patch_len() };
        let initial = match initial {
            ConvInitial::Uniform => fan_in,
            ConvInitial::Identity => Initial::Identity { fan_in: conv.patch_len() },
            ConvInitial::Edges => Initial::Edges,
            ConvInitial::FanOut => {
                let fan_out = (out_channels * kernel * kernel) as f32;
                Initial::Normal { deviation: (2.0 / fan_out).sqrt() }
            }
        };
        let weight = self.parameter(format!("{name}.weight"), layout, initial)?;
        let bias = self.bias(name, bias, out_channels, fan_in)?;
        Ok(self.node(name, Operator::Conv2d(conv), vec![input], shape, Some(weight), bias))
    }

    /// A linear layer on a vector; `name` is PyTorch's module path.
    pub fn linear(&mut self, name: &str, input: NodeId, out_features: usize) -> Result<NodeId> {
        self.linear_with(name, input, out_features, true)
    }

    /// A linear layer with or without bias.
    pub fn linear_with(&mut self, name: &str, input: NodeId, out_features: usize, bias: bool) -> Result<NodeId> {
        let shape = self.shape(input);
        ensure!(shape.pixels() == 1, "{name}: a linear layer needs a vector; flatten its {shape} input first");
        ensure!(out_features > 0, "{name}: a linear layer needs at least one output");
        let linear = Linear { in_features: shape.len(), out_features };
        let layout = Layout::Linear { out_features, segments: self.segments[input].clone() };
        let initial = Initial::Uniform { fan_in: linear.in_features };
        let weight = self.parameter(format!("{name}.weight"), layout, initial)?;
        let bias = self.bias(name, bias, out_features, initial)?;
        Ok(self.node(name, Operator::Linear(linear), vec![input], Shape::flat(out_features), Some(weight), bias))
    }

    /// A batch normalisation; `name` is PyTorch's module path.
    pub fn batch_norm2d(&mut self, name: &str, input: NodeId) -> Result<NodeId> {
        self.batch_norm2d_with(name, input, NormOptions::default())
    }

    /// A batch normalisation with options other than PyTorch's defaults.
    pub fn batch_norm2d_with(&mut self, name: &str, input: NodeId, options: NormOptions) -> Result<NodeId> {
        let NormOptions { epsilon, momentum, learned_scale } = options;
        let shape = self.shape(input);
        let (channels, op) = (shape.channels, BatchNorm2d { input: shape, momentum, epsilon });
        let weight = self.parameter(format!("{name}.weight"), Layout::Vector(channels), Initial::Constant(1.0))?;
        self.network.parameters[weight].fixed = !learned_scale;
        let bias = self.bias(name, true, channels, Initial::Constant(0.0))?;
        let statistics = &mut self.network.statistics;
        let offset = statistics.last().map_or(0, |last| last.range().end);
        statistics.push(RunningStatistics { name: name.into(), channels, offset });
        let index = statistics.len() - 1;
        let node = self.node(name, Operator::BatchNorm2d(op), vec![input], shape, Some(weight), bias);
        self.network.nodes[node].statistics = Some(index);
        self.segments[node] = self.segments[input].clone();
        Ok(node)
    }

    /// A parameter-free layer. Its input shape must be that of `input`.
    pub fn layer(&mut self, input: NodeId, layer: AnyLayer) -> Result<NodeId> {
        let shape = layer.as_layer().output()?;
        Ok(self.node(layer.as_layer().name(), Operator::Layer(layer), vec![input], shape, None, None))
    }

    /// Dropout with the given probability.
    pub fn dropout(&mut self, input: NodeId, probability: f32) -> Result<NodeId> {
        ensure!((0.0..1.0).contains(&probability), "dropout probability {probability} is not in the range 0 ≤ p < 1");
        let earlier = self.network.nodes.iter().filter(|node| matches!(node.operator, Operator::Dropout(_))).count();
        let dropout = Dropout { probability, index: u32::try_from(earlier)? };
        let (shape, segments) = (self.shape(input), self.segments[input].clone());
        let node = self.node("dropout", Operator::Dropout(dropout), vec![input], shape, None, None);
        self.segments[node] = segments;
        Ok(node)
    }

    pub fn activation(&mut self, input: NodeId, activation: Activation) -> Result<NodeId> {
        if let Activation::LeakyRelu { slope } = activation {
            ensure!(slope >= 0.0 && slope.is_finite(), "{activation}: the slope must be finite and at least 0");
        }
        let (shape, segments) = (self.shape(input), self.segments[input].clone());
        let node = self.node("activation", Operator::Activation(activation), vec![input], shape, None, None);
        self.segments[node] = segments;
        Ok(node)
    }

    pub fn relu(&mut self, input: NodeId) -> Result<NodeId> {
        self.activation(input, Activation::Relu)
    }

    /// Reshapes an activation to a vector.
    pub fn flatten(&mut self, input: NodeId) -> NodeId {
        let (shape, segments) = (self.shape(input), self.segments[input].clone());
        let node = self.node("flatten", Operator::Flatten, vec![input], Shape::flat(shape.len()), None, None);
        self.segments[node] = segments;
        node
    }

    /// The sum of two activations of the same shape.
    pub fn add(&mut self, a: NodeId, b: NodeId) -> Result<NodeId> {
        let (shape, other) = (self.shape(a), self.shape(b));
        ensure!(shape == other, "cannot add {other} to {shape}");
        ensure!(self.segments[a] == self.segments[b], "cannot add vectors that were flattened differently");
        let segments = self.segments[a].clone();
        let node = self.node("add", Operator::Add, vec![a, b], shape, None, None);
        self.segments[node] = segments;
        Ok(node)
    }

    /// Concatenates activations of the same height and width along channels, or vectors.
    pub fn concat(&mut self, inputs: &[NodeId]) -> Result<NodeId> {
        let Some(&first) = inputs.first() else { bail!("nothing to concatenate") };
        let mut shape = self.shape(first);
        for &input in &inputs[1..] {
            let other = self.shape(input);
            let fits = (other.height, other.width) == (shape.height, shape.width);
            ensure!(fits, "cannot concatenate {other} to {shape}: height and width differ");
            shape.channels += other.channels;
        }
        let vectors = inputs.iter().all(|&input| self.shape(input).pixels() == 1);
        let segments = match vectors {
            true => inputs.iter().flat_map(|&input| self.segments[input].clone()).collect(),
            false => vec![shape],
        };
        let node = self.node("concat", Operator::Concat, inputs.to_vec(), shape, None, None);
        self.segments[node] = segments;
        Ok(node)
    }

    /// Marks a node as the logits of an auxiliary head. In training, its loss times `weight` is added to the network's.
    pub fn auxiliary(&mut self, logits: NodeId, weight: f32) {
        self.network.auxiliary.push((logits, weight));
    }

    /// The finished network. The node added last provides the logits.
    ///
    /// # Errors
    /// If the logits are not a vector, there is no operator, an auxiliary head is invalid, or a node's output is
    /// unused.
    pub fn finish(self) -> Result<Network> {
        let mut network = self.network;
        ensure!(network.nodes.len() > 1, "{}: a network needs at least one operator", network.name);
        let last = network.nodes.len() - 1;
        let shape = network.nodes[last].shape;
        ensure!(shape.pixels() == 1, "{}: the logits must be a vector, not {shape}", network.name);
        let consumers = network.consumer_counts();
        let is_head = |node| network.auxiliary.iter().any(|&(head, _)| head == node);
        for &(head, weight) in &network.auxiliary {
            let (name, logits) = (&network.nodes[head].name, network.nodes[head].shape);
            ensure!(logits == shape, "{}: {name} has {logits} logits, the network has {shape}", network.name);
            ensure!(head < last && consumers[head] == 0, "{}: {name} cannot be an auxiliary head", network.name);
            ensure!(weight.is_finite() && weight >= 0.0, "{}: {name} has an invalid weight, {weight}", network.name);
        }
        if let Some(dead) = (0..last).find(|&node| consumers[node] == 0 && !is_head(node)) {
            bail!("{}: the output of {} is not used", network.name, network.nodes[dead].name);
        }
        network.arrange();
        Ok(network)
    }

    pub(super) fn node(
        &mut self,
        name: &str,
        operator: Operator,
        inputs: Vec<NodeId>,
        shape: Shape,
        weight: Option<usize>,
        bias: Option<usize>,
    ) -> NodeId {
        let same = |node: &&Node| node.name == name || node.name.strip_prefix(name).is_some_and(|n| n.starts_with('.'));
        let earlier = if weight.is_some() { 0 } else { self.network.nodes.iter().filter(same).count() };
        let name = if weight.is_some() { name.into() } else { format!("{name}.{}", earlier + 1) };
        self.network.nodes.push(Node { name, operator, inputs, shape, weight, bias, statistics: None });
        self.segments.push(vec![shape]);
        self.network.nodes.len() - 1
    }

    /// Overrides the initial values of a node's weight and, if it has one, its bias.
    pub fn set_initial(&mut self, node: NodeId, weight: Initial, bias: Initial) {
        let Network { nodes, parameters, .. } = &mut self.network;
        for (index, initial) in [(nodes[node].weight, weight), (nodes[node].bias, bias)] {
            if let Some(index) = index {
                parameters[index].initial = initial;
            }
        }
    }

    fn bias(&mut self, name: &str, enabled: bool, len: usize, initial: Initial) -> Result<Option<usize>> {
        enabled.then(|| self.parameter(format!("{name}.bias"), Layout::Vector(len), initial)).transpose()
    }

    fn parameter(&mut self, name: String, layout: Layout, initial: Initial) -> Result<usize> {
        let parameters = &mut self.network.parameters;
        ensure!(parameters.iter().all(|parameter| parameter.name != name), "two parameters are named {name}");
        let offset = parameters.last().map_or(0, |last| last.range().end);
        parameters.push(Parameter { name, layout, initial, offset, fixed: false });
        Ok(parameters.len() - 1)
    }
}

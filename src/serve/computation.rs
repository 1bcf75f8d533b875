//! How one value of a layer comes about: the window, the filter, the sums, and what follows them.

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::explain::{Attribution, Unit, layer_title};
use crate::network::{Network, NodeId, Operator, Weights};
use crate::ops::{AnyLayer, Backend, BatchNorm2d, Conv2d, Linear};
use crate::shape::{Shape, Window, adaptive_window};

/// Of a convolution over many channels, those with the largest contributions are shown; of a linear layer, the largest
/// products.
const SHOWN_CHANNELS: usize = 4;
const SHOWN_PRODUCTS: usize = 12;

/// A value of a layer, and the steps that compute it from earlier layers.
#[derive(Clone, Debug, Serialize)]
pub struct Computation {
    pub channel: usize,
    pub row: usize,
    pub column: usize,
    /// What the network computed.
    pub value: f32,
    /// From the first to the last.
    pub steps: Vec<Step>,
}

/// A window of an earlier layer. Its positions may be in the padding.
#[derive(Clone, Debug, Serialize)]
pub struct Area {
    /// The name of the layer that is read.
    pub layer: String,
    /// Whether that is the input, whose values are normalised pixels.
    pub is_input: bool,
    pub rows: Vec<isize>,
    pub columns: Vec<isize>,
}

/// The part of one input channel in a convolution.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    pub channel: usize,
    /// Values of the window, 0 in the padding.
    pub window: Vec<f32>,
    pub filter: Vec<f32>,
    /// The sum of their products.
    pub sum: f64,
}

/// One product of a linear layer.
#[derive(Clone, Debug, Serialize)]
pub struct Product {
    /// The position of the input in the layer before; `row` and `column` are 0 if that is a vector.
    pub channel: usize,
    pub row: usize,
    pub column: usize,
    pub input: f32,
    pub weight: f32,
    pub product: f64,
}

/// One operator. `value` is its output as the network computed it; sums are those of the shown arithmetic.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Step {
    Convolution {
        name: String,
        text: String,
        area: Area,
        /// The channels with the largest contributions, and the sum over all others.
        parts: Vec<Part>,
        other_channels: usize,
        others: f64,
        bias: Option<f32>,
        sum: f64,
        value: f32,
    },
    Linear {
        name: String,
        text: String,
        layer: String,
        products: Vec<Product>,
        other_inputs: usize,
        others: f64,
        bias: Option<f32>,
        sum: f64,
        value: f32,
    },
    /// A window's largest value or mean.
    Pooling {
        name: String,
        text: String,
        area: Area,
        /// `None` in the padding, which a maximum ignores.
        window: Vec<Option<f32>>,
        /// For a mean, what the sum is divided by.
        divisor: Option<f32>,
        value: f32,
    },
    /// `weight · (x − mean) / √(variance + epsilon) + bias`
    Normalisation { name: String, mean: f32, variance: f32, epsilon: f32, weight: f32, bias: f32, value: f32 },
    /// The values of all layers that are added; the first is that of the step before.
    Addition { addends: Vec<(String, f32)>, value: f32 },
    /// A function of the step before.
    Function { text: String, value: f32 },
    /// The value of a channel of another layer.
    Copy { layer: String, channel: usize, value: f32 },
    /// An operator whose arithmetic is not shown.
    Other { name: String, text: String, value: f32 },
}

/// The computation of a unit of the last forward pass, back to the last layer with a window or with all inputs.
///
/// # Errors
/// If the unit does not exist, or its layer only exists in training.
pub fn computation<B: Backend>(
    attribution: &mut Attribution<'_, B>,
    network: &Network,
    weights: &Weights,
    node: NodeId,
    unit: Unit,
) -> Result<Computation> {
    let shape = network.nodes.get(node).context("there is no such layer")?.shape;
    let Unit { channel, row, column, .. } = unit;
    ensure!(
        channel < shape.channels && row < shape.height && column < shape.width,
        "there is no unit at channel {channel}, row {row}, column {column} of a layer of {shape}"
    );
    let mut reader = Reader { attribution, network, weights, steps: Vec::new() };
    let value = reader.explain(node, Place { channel, row, column })?;
    Ok(Computation { channel, row, column, value, steps: reader.steps })
}

#[derive(Clone, Copy)]
struct Place {
    channel: usize,
    row: usize,
    column: usize,
}

impl Place {
    /// The place of a value in `[height][width][channels]`.
    fn of(index: usize, shape: Shape) -> Self {
        let position = index / shape.channels;
        Self { channel: index % shape.channels, row: position / shape.width, column: position % shape.width }
    }

    fn index(self, shape: Shape) -> usize {
        (self.row * shape.width + self.column) * shape.channels + self.channel
    }
}

struct Reader<'r, 'a, B: Backend> {
    attribution: &'r mut Attribution<'a, B>,
    network: &'r Network,
    weights: &'r Weights,
    steps: Vec<Step>,
}

impl<B: Backend> Reader<'_, '_, B> {
    /// Adds the steps of a value, the earliest first, and returns it.
    fn explain(&mut self, node: NodeId, place: Place) -> Result<f32> {
        let network = self.network;
        let it = &network.nodes[node];
        let value = self.attribution.activations(node)?[place.index(it.shape)];
        let Some(&input) = it.inputs.first() else { return Ok(value) };
        let step = match it.operator {
            Operator::Input => return Ok(value),
            Operator::Flatten | Operator::Dropout(_) => {
                let from = Place::of(place.index(it.shape), network.nodes[input].shape);
                return self.explain(input, from);
            }
            Operator::Conv2d(conv) => self.convolution(node, conv, place, value)?,
            Operator::Linear(linear) => self.linear(node, linear, place.channel, value)?,
            Operator::BatchNorm2d(norm) => {
                self.explain(input, place)?;
                self.normalisation(node, norm, place.channel, value)?
            }
            Operator::Activation(_) | Operator::Layer(AnyLayer::Pointwise(_)) => {
                self.explain(input, place)?;
                Step::Function { text: it.operator.describe(), value }
            }
            Operator::Add => self.addition(node, place, value)?,
            Operator::Concat => self.copy(node, place, value)?,
            Operator::MaxPool2d(_) | Operator::Layer(_) => self.pooling(node, place, value)?,
        };
        self.steps.push(step);
        Ok(value)
    }

    /// The first addend is explained; the others are values of other layers.
    fn addition(&mut self, node: NodeId, place: Place, value: f32) -> Result<Step> {
        let it = &self.network.nodes[node];
        let mut addends = Vec::new();
        for (at, &input) in it.inputs.iter().enumerate() {
            let value = match at {
                0 => self.explain(input, place)?,
                _ => self.attribution.activations(input)?[place.index(it.shape)],
            };
            addends.push((layer_title(self.network, input).0, value));
        }
        Ok(Step::Addition { addends, value })
    }

    fn copy(&mut self, node: NodeId, mut place: Place, value: f32) -> Result<Step> {
        let network = self.network;
        for &input in &network.nodes[node].inputs {
            let channels = network.nodes[input].shape.channels;
            if place.channel < channels {
                self.explain(input, place)?;
                return Ok(Step::Copy { layer: layer_title(network, input).0, channel: place.channel, value });
            }
            place.channel -= channels;
        }
        bail!("{} has more channels than its inputs", network.nodes[node].name)
    }

    /// The parameter of a node, if it has one.
    fn parameter(&self, index: Option<usize>) -> Option<&[f32]> {
        Some(&self.weights.parameters[self.network.parameters[index?].range()])
    }

    fn convolution(&mut self, node: NodeId, conv: Conv2d, place: Place, value: f32) -> Result<Step> {
        let it = &self.network.nodes[node];
        let input = *it.inputs.first().context("a convolution without input")?;
        let values = self.attribution.activations(input)?;
        let window = conv.dilated_window();
        let mut area = self.area(input, window, place);
        // A dilated window skips pixels.
        area.rows = area.rows.into_iter().step_by(conv.dilation).collect();
        area.columns = area.columns.into_iter().step_by(conv.dilation).collect();
        let channels = conv.input.channels / conv.groups;
        let first = place.channel / (conv.out_channels / conv.groups) * channels;
        let weight = self.parameter(it.weight).context("a convolution without weights")?;
        let filter = &weight[place.channel * conv.patch_len()..][..conv.patch_len()];
        let part = |channel: usize| {
            let window = taps(&area, conv.input, first + channel, &values).map(Option::unwrap_or_default).collect();
            let window: Vec<f32> = window;
            let filter: Vec<f32> = filter.iter().skip(channel).step_by(channels).copied().collect();
            let sum = window.iter().zip(&filter).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            Part { channel: first + channel, window, filter, sum }
        };
        let mut parts: Vec<Part> = (0..channels).map(part).collect();
        let all: f64 = parts.iter().map(|part| part.sum).sum();
        let bias = self.parameter(it.bias).map(|bias| bias[place.channel]);
        parts.sort_by(|a, b| b.sum.abs().total_cmp(&a.sum.abs()));
        let others: f64 = parts.iter().skip(SHOWN_CHANNELS).map(|part| part.sum).sum();
        let other_channels = parts.len().saturating_sub(SHOWN_CHANNELS);
        parts.truncate(SHOWN_CHANNELS);
        let sum = all + f64::from(bias.unwrap_or_default());
        let (name, text) = (it.name.clone(), it.operator.describe());
        Ok(Step::Convolution { name, text, area, parts, other_channels, others, bias, sum, value })
    }

    fn linear(&mut self, node: NodeId, linear: Linear, output: usize, value: f32) -> Result<Step> {
        let it = &self.network.nodes[node];
        let input = *it.inputs.first().context("a linear layer without input")?;
        let values = self.attribution.activations(input)?;
        let source = self.behind_views(input);
        let shape = self.network.nodes[source].shape;
        let weight = self.parameter(it.weight).context("a linear layer without weights")?;
        let row = &weight[output * linear.in_features..][..linear.in_features];
        let product = |(index, (&input, &weight)): (usize, (&f32, &f32))| {
            let Place { channel, row, column } = Place::of(index, shape);
            Product { channel, row, column, input, weight, product: f64::from(input) * f64::from(weight) }
        };
        let mut products: Vec<Product> = values.iter().zip(row).enumerate().map(product).collect();
        let all: f64 = products.iter().map(|it| it.product).sum();
        products.sort_by(|a, b| b.product.abs().total_cmp(&a.product.abs()));
        let others = products.iter().skip(SHOWN_PRODUCTS).map(|it| it.product).sum();
        let other_inputs = products.len().saturating_sub(SHOWN_PRODUCTS);
        products.truncate(SHOWN_PRODUCTS);
        let bias = self.parameter(it.bias).map(|bias| bias[output]);
        let sum = all + f64::from(bias.unwrap_or_default());
        let (name, text) = (it.name.clone(), it.operator.describe());
        let layer = layer_title(self.network, source).0;
        Ok(Step::Linear { name, text, layer, products, other_inputs, others, bias, sum, value })
    }

    /// A pooling, or another layer whose arithmetic is not shown.
    fn pooling(&mut self, node: NodeId, place: Place, value: f32) -> Result<Step> {
        let it = &self.network.nodes[node];
        let input = *it.inputs.first().context("a pooling without input")?;
        let (name, text) = (it.name.clone(), it.operator.describe());
        let (area, divisor) = match it.operator {
            Operator::MaxPool2d(pool) => (self.area(input, pool.window, place), None),
            Operator::Layer(AnyLayer::AvgPool2d(pool)) => {
                (self.area(input, pool.window, place), Some(pool.divisor(place.row, place.column)))
            }
            Operator::Layer(AnyLayer::AdaptiveAvgPool2d(pool)) => {
                let along = |index, inputs, outputs| adaptive_window(index, inputs, outputs).map(|at| at as isize);
                let rows: Vec<isize> = along(place.row, pool.input.height, pool.height).collect();
                let columns: Vec<isize> = along(place.column, pool.input.width, pool.width).collect();
                let divisor = (rows.len() * columns.len()) as f32;
                (Area { rows, columns, ..self.nowhere(input) }, Some(divisor))
            }
            _ => return Ok(Step::Other { name, text, value }),
        };
        let values = self.attribution.activations(input)?;
        let window = taps(&area, self.network.nodes[input].shape, place.channel, &values).collect();
        Ok(Step::Pooling { name, text, area, window, divisor, value })
    }

    fn normalisation(&self, node: NodeId, norm: BatchNorm2d, channel: usize, value: f32) -> Result<Step> {
        let it = &self.network.nodes[node];
        let statistics = it.statistics.context("a batch normalisation without statistics")?;
        let statistics = &self.weights.statistics.values[self.network.statistics[statistics].range()];
        let (mean, variance) = (statistics[channel], statistics[statistics.len() / 2 + channel]);
        let of_channel = |values: Option<&[f32]>, otherwise| values.map_or(otherwise, |values| values[channel]);
        let weight = of_channel(self.parameter(it.weight), 1.0);
        let bias = of_channel(self.parameter(it.bias), 0.0);
        let (name, epsilon) = (it.name.clone(), norm.epsilon);
        Ok(Step::Normalisation { name, mean, variance, epsilon, weight, bias, value })
    }

    fn nowhere(&self, input: NodeId) -> Area {
        let layer = layer_title(self.network, self.behind_views(input)).0;
        Area { layer, is_input: input == 0, rows: Vec::new(), columns: Vec::new() }
    }

    fn area(&self, input: NodeId, window: Window, place: Place) -> Area {
        let along = |index: usize| {
            let start = (index * window.stride) as isize - window.padding as isize;
            (start..start + window.kernel as isize).collect()
        };
        Area { rows: along(place.row), columns: along(place.column), ..self.nowhere(input) }
    }

    /// The layer whose values a node is a view of.
    fn behind_views(&self, mut node: NodeId) -> NodeId {
        while let Operator::Flatten | Operator::Dropout(_) = self.network.nodes[node].operator {
            node = self.network.nodes[node].inputs[0];
        }
        node
    }
}

/// The values of one channel at an area's positions; `None` in the padding.
fn taps(area: &Area, shape: Shape, channel: usize, values: &[f32]) -> impl Iterator<Item = Option<f32>> {
    let inside = |at: isize, side: usize| usize::try_from(at).ok().filter(|&at| at < side);
    let positions = area.rows.iter().flat_map(|&row| area.columns.iter().map(move |&column| (row, column)));
    positions.map(move |(row, column)| {
        let (row, column) = (inside(row, shape.height)?, inside(column, shape.width)?);
        Some(values[Place { channel, row, column }.index(shape)])
    })
}

//! Static properties of a network: receptive fields, parameter counts and layer descriptions.

use super::{Network, Node, Operator};
use crate::ops::{describe_pooling, describe_window};
use crate::shape::Window;

/// The receptive field of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceptiveField {
    /// Side of the input square that influences one activation, in pixels.
    pub size: usize,
    /// Distance between the fields of neighbouring activations, in input pixels.
    pub step: usize,
    /// The first row and column of the first activation's square; negative if it begins in the padding.
    pub start: isize,
}

impl Network {
    /// The receptive field of every node; a node with several inputs takes the largest. `None` after a linear layer,
    /// which combines all positions.
    pub fn receptive_fields(&self) -> Vec<Option<ReceptiveField>> {
        let mut fields: Vec<Option<ReceptiveField>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let input = node.inputs.iter().map(|&input| fields[input]).max_by_key(|field| field.map_or(0, |f| f.size));
            let field = match (&node.operator, input) {
                (Operator::Input, _) => Some(ReceptiveField { size: 1, step: 1, start: 0 }),
                (Operator::Linear(_), _) | (_, None | Some(None)) => None,
                (operator, Some(Some(field))) => Some(match operator.window() {
                    None => field,
                    Some(Window { kernel, stride, padding }) => ReceptiveField {
                        size: field.size + (kernel - 1) * field.step,
                        step: field.step * stride,
                        start: field.start - (padding * field.step) as isize,
                    },
                }),
            };
            fields.push(field);
        }
        fields
    }

    /// The number of parameters of one node.
    pub fn node_parameters(&self, node: &Node) -> usize {
        node.weight.iter().chain(&node.bias).map(|&index| self.parameters[index].len()).sum()
    }
}

impl Operator {
    /// The sliding window of a convolution or pooling.
    pub fn window(&self) -> Option<Window> {
        match self {
            Self::Conv2d(op) => Some(op.dilated_window()),
            Self::MaxPool2d(op) => Some(op.window),
            Self::Layer(layer) => layer.as_layer().window(),
            _ => None,
        }
    }

    /// A description for display, such as `conv 3×3 stride 2, 16→32`.
    pub fn describe(&self) -> String {
        match self {
            Self::Input => "input".into(),
            Self::Conv2d(op) => {
                let mut text =
                    format!("conv {}, {}→{}", describe_window(op.window, 1), op.input.channels, op.out_channels);
                for (what, number) in [("groups", op.groups), ("dilation", op.dilation)] {
                    text += &if number > 1 { format!(" {what} {number}") } else { String::new() };
                }
                text
            }
            Self::Linear(op) => format!("linear {}→{}", op.in_features, op.out_features),
            Self::BatchNorm2d(_) => "batch norm".into(),
            Self::MaxPool2d(op) => format!("max pool {}", describe_pooling(op.window, op.ceil_mode)),
            Self::Layer(layer) => layer.as_layer().describe(),
            Self::Activation(activation) => activation.to_string(),
            Self::Dropout(op) => format!("dropout {}", op.probability),
            Self::Flatten => "flatten".into(),
            Self::Add => "add".into(),
            Self::Concat => "concat".into(),
        }
    }
}

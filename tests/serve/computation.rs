//! The shown arithmetic adds up to what the network computed.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::explain::{Attribution, Unit, shown_layers};
use cnn_cuda::models;
use cnn_cuda::network::{Network, Weights};
use cnn_cuda::plan::ReluGradient;
use cnn_cuda::rng::{Philox, Purpose};
use cnn_cuda::serve::{Computation, Step, computation};

use crate::ops::pytorch::Tensors;
use crate::train::{networks, resnet};

/// Units of every layer that are checked.
const UNITS: u32 = 12;

/// Compares with a value that fp32 sums gave, whose terms are at most a few units.
fn close(got: f64, value: f32, what: &str) {
    let value = f64::from(value);
    assert!((got - value).abs() <= 1e-4 * value.abs().max(1.0), "{what}: the arithmetic gives {got}, not {value}");
}

/// Computes every step again from what the page shows.
fn check(computation: &Computation, what: &str) {
    let mut before = 0.0;
    for step in &computation.steps {
        let what = &format!("{what}, {step:?}");
        before = match step {
            Step::Convolution { parts, others, bias, sum, value, area, other_channels, .. } => {
                for part in parts {
                    assert_eq!(part.window.len(), area.rows.len() * area.columns.len(), "{what}");
                    let products = part.window.iter().zip(&part.filter);
                    close(products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum(), part.sum as f32, what);
                }
                assert!((*other_channels > 0) == (*others != 0.0) || *others == 0.0, "{what}");
                let shown: f64 = parts.iter().map(|part| part.sum).sum();
                close(shown + others + f64::from(bias.unwrap_or(0.0)), *sum as f32, what);
                close(*sum, *value, what);
                *value
            }
            Step::Linear { products, others, bias, sum, value, .. } => {
                let shown: f64 = products.iter().map(|it| f64::from(it.input) * f64::from(it.weight)).sum();
                close(shown + others + f64::from(bias.unwrap_or(0.0)), *sum as f32, what);
                close(*sum, *value, what);
                *value
            }
            Step::Pooling { window, divisor, value, .. } => {
                let inside = window.iter().flatten();
                let expected = match divisor {
                    None => f64::from(inside.fold(f32::NEG_INFINITY, |largest, &value| largest.max(value))),
                    Some(divisor) => inside.map(|&value| f64::from(value)).sum::<f64>() / f64::from(*divisor),
                };
                close(expected, *value, what);
                *value
            }
            Step::Normalisation { mean, variance, epsilon, weight, bias, value, .. } => {
                let [mean, variance, epsilon, weight, bias] =
                    [mean, variance, epsilon, weight, bias].map(|&it| f64::from(it));
                close(weight * (f64::from(before) - mean) / (variance + epsilon).sqrt() + bias, *value, what);
                *value
            }
            Step::Addition { addends, value } => {
                assert_eq!(addends[0].1, before, "{what}");
                close(addends.iter().map(|(_, value)| f64::from(*value)).sum(), *value, what);
                *value
            }
            Step::Function { text, value } => {
                let before = f64::from(before);
                let expected = match text.as_str() {
                    "ReLU" => before.max(0.0),
                    "tanh" => before.tanh(),
                    _ => panic!("{what} is not checked"),
                };
                close(expected, *value, what);
                *value
            }
            Step::Copy { value, .. } => {
                assert_eq!(*value, before, "{what}");
                *value
            }
            Step::Other { value, .. } => *value,
        };
    }
    assert_eq!(before, computation.value, "{what}");
}

fn check_network(network: &Network, weights: &Weights, input: &[f32]) -> usize {
    let mut cpu = Cpu::new(Some(2)).expect("two threads");
    let mut attribution = Attribution::new(&mut cpu, network, weights, ReluGradient::True, 1).expect("a plan");
    attribution.forward(&input[..network.input().len()]).expect("a pass");
    let mut kinds = std::collections::BTreeSet::new();
    for node in shown_layers(network).into_iter().filter(|&node| node > 0) {
        let (shape, mut random) = (network.nodes[node].shape, Philox::new(7, Purpose::Explanation, node as u32));
        let mut any = |count: usize| random.below(count as u32) as usize;
        for number in 0..UNITS {
            // The first corner, where padding is, and others.
            let [channel, row, column] = match number {
                0 => [0; 3],
                _ => [any(shape.channels), any(shape.height), any(shape.width)],
            };
            let unit = Unit { channel, row, column, activation: 0.0 };
            let found = computation(&mut attribution, network, weights, node, unit).expect("a computation");
            let activation = attribution.activations(node).expect("activations");
            assert_eq!(found.value, activation[(row * shape.width + column) * shape.channels + channel]);
            assert!(!found.steps.is_empty());
            kinds.extend(found.steps.iter().map(std::mem::discriminant).map(|it| format!("{it:?}")));
            check(&found, &format!("{} {} {unit:?}", network.name, network.nodes[node].name));
        }
        let outside = Unit { channel: shape.channels, row: 0, column: 0, activation: 0.0 };
        assert!(computation(&mut attribution, network, weights, node, outside).is_err());
    }
    kinds.len()
}

#[test]
fn every_step_adds_up_in_every_kind_of_network() {
    let bytes = std::fs::read("tests/reference/networks.safetensors").expect("the committed reference");
    for network in networks::networks() {
        let weights = networks::weights(&network, &Tensors::new(&bytes));
        let input = networks::inputs(&network, &Tensors::new(&bytes));
        assert!(check_network(&network, &weights, &input) > 2, "{}", network.name);
    }
    let model = models::find("lenet5").expect("a model");
    let lenet5 = (model.build)(model.input, model.classes).expect("a network");
    let input: Vec<f32> = (0..lenet5.input().len()).map(|at| (at as f32).sin()).collect();
    check_network(&lenet5, &lenet5.initial_weights(3), &input);
    for (name, network) in resnet::networks() {
        let (weights, input) = resnet::initial(name, &network);
        // Convolutions, normalisations, additions, functions, a mean, and the linear layer.
        assert!(check_network(&network, &weights, &input) >= 6, "{name}");
    }
}

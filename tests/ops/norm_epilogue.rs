//! Batch normalisation in the epilogues of convolutions: the statistics of an output, and the sums of a gradient, with
//! and without what other operators have contributed to it.

use cnn_cuda::ops::{
    Activation, Add, Backend, BatchNorm2d, Conv2d, Conv2dBackwardInput, Conv2dForward, NormEpilogue, Region,
    StatisticsEpilogue,
};
use cnn_cuda::shape::{Shape, Window};

use super::lab::{Lab, random};
use super::{FP32, Tolerance, compare, cpu, reference};

/// Input height, width and channels; output channels; the window; batch size.
type Case = ([usize; 3], usize, [usize; 3], usize);
const CASES: &[Case] = &[
    ([6, 5, 64], 64, [3, 1, 1], 2),
    ([4, 5, 128], 72, [3, 1, 0], 1),
    ([1, 130, 64], 64, [3, 1, 1], 1), // a tile of places without a pixel
    ([5, 6, 8], 40, [3, 2, 1], 2),
    ([14, 13, 3], 16, [5, 2, 2], 2),
    ([9, 9, 2], 3, [3, 3, 2], 3),
    ([6, 6, 16], 16, [3, 1, 0], 2),
    ([41, 40, 8], 16, [1, 1, 0], 6), // so many tiles that their sums are added in groups
    ([30, 30, 1], 8, [3, 1, 1], 12),
];

fn conv((input, out_channels, [kernel, stride, padding], _): Case) -> Conv2d {
    Conv2d::new(Shape::new(input[0], input[1], input[2]), out_channels, Window { kernel, stride, padding })
}

/// Compares the statistics of a convolution's output with those of the values that it stored.
fn check_statistics<B: Backend>(lab: &mut Lab<B>, case: Case, activation: Activation) {
    lab.clear();
    let (op, batch) = (conv(case), case.3);
    let shape = op.output().expect("fits");
    let channels = shape.channels;
    let norm = BatchNorm2d { momentum: 0.25, ..BatchNorm2d::new(shape) };
    let input = lab.put(Region::Arena, &random(batch * op.input.len(), 1));
    let weight = lab.put(Region::Parameters, &random(op.weight_len(), 2));
    // Means that are large for the deviation.
    let far: Vec<f32> = random(channels, 3).iter().map(|value| 200.0 * value).collect();
    let bias = Some(lab.put(Region::Parameters, &far));
    let output = lab.empty(Region::Arena, batch * shape.len());
    let before = random(2 * channels, 4);
    let running = lab.put(Region::Statistics, &before);
    let saved = lab.empty(Region::Statistics, 2 * channels);
    let statistics = Some(StatisticsEpilogue { op: norm, running, saved });
    lab.run(Conv2dForward { op, activation, input, weight, bias, residual: None, output, pool: None, statistics });
    let y: Vec<f64> = lab.get(output).into_iter().map(f64::from).collect();
    let rows = (y.len() / channels) as f64;
    let moments: Vec<(f64, f64)> = (0..channels).map(|channel| reference::moments(&y, channel, channels)).collect();
    let both = |mean: &dyn Fn(usize) -> f64, spread: &dyn Fn(usize) -> f64| -> Vec<f64> {
        (0..channels).map(mean).chain((0..channels).map(spread)).collect()
    };
    let inverse = |c: usize| 1.0 / (moments[c].1 + f64::from(norm.epsilon)).sqrt();
    compare(&format!("{case:?}: saved"), &lab.get(saved), &both(&|c| moments[c].0, &inverse), FP32);
    let updated = |before: f32, batch: f64| 0.75 * f64::from(before) + 0.25 * batch;
    let mean = |c: usize| updated(before[c], moments[c].0);
    let variance = |c: usize| updated(before[channels + c], moments[c].1 * rows / (rows - 1.0));
    compare(&format!("{case:?}: running"), &lab.get(running), &both(&mean, &variance), FP32);
}

/// What precedes the convolution whose input gradient is computed.
#[derive(Clone, Copy, Debug)]
struct Before {
    /// Whether there is batch normalisation, with this activation.
    norm: Option<Activation>,
    /// Whether the normalisation adds a residual.
    residual: bool,
    /// Whether other operators have contributed to the gradient.
    added: bool,
}

const BEFORE: [Before; 9] = [
    Before { norm: Some(Activation::Relu), residual: true, added: true },
    Before { norm: None, residual: false, added: true },
    Before { norm: Some(Activation::Relu), residual: false, added: false },
    Before { norm: Some(Activation::Relu), residual: true, added: false },
    Before { norm: Some(Activation::LeakyRelu { slope: 0.25 }), residual: false, added: true },
    Before { norm: Some(Activation::Identity), residual: true, added: false },
    Before { norm: Some(Activation::Tanh), residual: false, added: false },
    Before { norm: Some(Activation::Tanh), residual: true, added: false },
    Before { norm: Some(Activation::Relu), residual: false, added: true },
];

/// The input gradient, then the gradients of the normalisation's weight and bias, if there is one.
fn input_gradient<B: Backend>(lab: &mut Lab<B>, case: Case, before: Before, fused: bool) -> [Vec<f32>; 3] {
    lab.clear();
    let (op, batch) = (conv(case), case.3);
    let (inputs, channels) = (batch * op.input.len(), op.input.channels);
    let d_output = lab.put(Region::Arena, &random(batch * op.output().expect("fits").len(), 1));
    let weight = lab.put(Region::Parameters, &random(op.weight_len(), 2));
    let [input, output, others] = [3, 4, 5].map(|seed| lab.put(Region::Arena, &random(inputs, seed)));
    let d_input = lab.empty(Region::Arena, inputs);
    let added = before.added.then_some(others);
    let [gamma, beta] = [6, 7].map(|seed| lab.put(Region::Parameters, &random(channels, seed)));
    let saved = lab.put(Region::Statistics, &random(2 * channels, 8));
    let [d_weight, d_bias] = [0; 2].map(|_| lab.put(Region::Gradients, &vec![0.0; channels]));
    let norm = before.norm.map(|activation| NormEpilogue {
        op: BatchNorm2d::new(op.input),
        activation,
        input,
        weight: gamma,
        bias: beta,
        saved,
        output: before.residual.then_some(output),
        d_weight,
        d_bias,
    });
    if fused {
        lab.run(Conv2dBackwardInput { op, d_output, weight, d_input, added, epilogue: None, norm });
    } else {
        lab.run(Conv2dBackwardInput { op, d_output, weight, d_input, added: None, epilogue: None, norm: None });
        added.into_iter().for_each(|added| lab.run(Add { a: d_input, b: added, output: d_input }));
        norm.into_iter().for_each(|norm| lab.run(norm.of_gradient(d_input)));
    }
    [d_input, d_weight, d_bias].map(|span| lab.get(span))
}

/// Compares a backend's fused forward passes with the statistics of what they stored.
pub fn check_forward<B: Backend>(lab: &mut Lab<B>) {
    for &case in CASES {
        check_statistics(lab, case, Activation::Identity);
    }
    check_statistics(lab, CASES[0], Activation::Relu);
}

/// Compares a backend's fused input gradients with the same operators in sequence: for each kind of epilogue one of the
/// shapes, or `all` of them.
pub fn check_input_gradients<B: Backend>(lab: &mut Lab<B>, all: bool) {
    for (index, &case) in CASES.iter().enumerate() {
        for before in BEFORE.into_iter().skip(if all { 0 } else { index }).step_by(if all { 1 } else { CASES.len() }) {
            let [expected, d_weight, d_bias] = input_gradient(lab, case, before, false);
            let [got, got_d_weight, got_d_bias] = input_gradient(lab, case, before, true);
            assert_eq!(got, expected, "{case:?} {before:?}: input gradient");
            for (what, got, expected) in [("weight", got_d_weight, d_weight), ("bias", got_d_bias, d_bias)] {
                let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
                // Sums of thousands of values of both signs, in another order.
                let scale = expected.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
                let tolerance = Tolerance { absolute: 1e-5 * scale, relative: 1e-5 };
                compare(&format!("{case:?} {before:?}: gradient of the {what}"), &got, &expected, tolerance);
            }
        }
    }
}

#[test]
fn norm_epilogues_match_separate_operators() {
    check_forward(&mut cpu());
    check_input_gradients(&mut cpu(), true);
}

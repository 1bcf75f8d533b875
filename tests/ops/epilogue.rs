//! Compares fused epilogues with separate operators: pooling after a convolution, and the gradients of activation and
//! bias after a pooling or input gradient.

use cnn_cuda::cpu::{Cpu, Instructions};
use cnn_cuda::ops::{
    Activation, ActivationForward, Add, Backend, BiasActivationBackward, Conv2d, Conv2dBackwardInput, Conv2dForward,
    GradientEpilogue, Linear, LinearBackwardInput, MaxPool2d, MaxPool2dBackward, MaxPool2dForward, PoolEpilogue,
    Region,
};
use cnn_cuda::shape::{Shape, Window};

use super::case::{Case, conv};
use super::conv::cases as conv_cases;
use super::lab::{Lab, random};
use super::{FP32, Tolerance, compare, cpu, cpu_with};

const ACTIVATIONS: [Activation; 3] = [Activation::Identity, Activation::Relu, Activation::LeakyRelu { slope: 0.25 }];

/// A convolution followed by a pooling: input height, width, channels; output channels; the convolution's window; the
/// pooling's window; batch size.
type Pooled = ([usize; 3], usize, [usize; 3], [usize; 3], usize);
const POOLED: &[Pooled] = &[
    ([8, 6, 3], 8, [3, 1, 0], [2, 2, 0], 2),  // vectorised tiles
    ([9, 8, 1], 16, [3, 1, 0], [2, 2, 0], 1), // one row is not pooled
    ([7, 7, 2], 8, [3, 1, 1], [3, 2, 1], 3),  // overlap and padding
    ([6, 6, 1], 5, [3, 1, 0], [2, 2, 0], 2),  // channels not a multiple of a vector
    ([12, 12, 1], 6, [5, 1, 2], [2, 2, 0], 2),
    ([5, 5, 4], 1, [1, 1, 0], [2, 1, 0], 2),
    ([4, 4, 8], 8, [3, 2, 1], [2, 2, 0], 1),
    ([8, 6, 16], 32, [3, 1, 0], [2, 2, 0], 2), // Winograd, if the backend has it
    ([4, 6, 8], 40, [3, 1, 1], [2, 2, 0], 1),  // few windows with many channels
    ([8, 8, 8], 40, [3, 1, 1], [2, 2, 0], 1),
];

fn window([kernel, stride, padding]: [usize; 3]) -> Window {
    Window { kernel, stride, padding }
}

/// How a convolution and its pooling are computed.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Fused,
    Separate,
    /// Like `Separate`, with the convolution's output rounded to a multiple of a quarter before the pooling.
    Rounded,
}

/// The pooled output, the gradient of the convolution's output, and the bias gradient.
fn conv_pool<B: Backend>(
    lab: &mut Lab<B>,
    (input, out_channels, conv, pool, batch): Pooled,
    activation: Activation,
    form: Form,
    values: impl Fn(usize, u32) -> Vec<f32>,
) -> [Vec<f32>; 3] {
    let fused = form == Form::Fused;
    lab.clear();
    let op = Conv2d::new(Shape::new(input[0], input[1], input[2]), out_channels, window(conv));
    let pool = MaxPool2d { input: op.output().expect("fits"), window: window(pool), ceil_mode: false };
    let (whole, outputs) = (batch * pool.input.len(), batch * pool.output().expect("fits").len());
    let x = lab.put(Region::Arena, &values(batch * op.input.len(), 1));
    let weight = lab.put(Region::Parameters, &values(op.weight_len(), 2));
    let bias = Some(lab.put(Region::Parameters, &values(out_channels, 3)));
    let [output, d_conv] = [0; 2].map(|_| lab.empty(Region::Arena, whole));
    let pooled = lab.empty(Region::Arena, outputs);
    let d_output = lab.put(Region::Arena, &random(outputs, 4));
    let argmax = lab.empty(Region::Indices, outputs);
    let d_bias = lab.empty(Region::Gradients, out_channels);
    let end = fused.then_some(PoolEpilogue { op: pool, output: pooled, argmax: Some(argmax) });
    lab.run(Conv2dForward {
        op,
        activation,
        input: x,
        weight,
        bias,
        residual: None,
        output,
        pool: end,
        statistics: None,
    });
    if form == Form::Rounded {
        let rounded: Vec<f32> = lab.get(output).iter().map(|value| (4.0 * value).round() / 4.0).collect();
        lab.backend.write(output, &rounded).expect("write");
    }
    if !fused {
        lab.run(MaxPool2dForward { op: pool, input: output, output: pooled, argmax: Some(argmax) });
    }
    let d_bias_of = |output| GradientEpilogue { activation, output, relu_mask: None, d_bias: Some(d_bias) };
    let epilogue = fused.then_some(d_bias_of(pooled));
    lab.run(MaxPool2dBackward { op: pool, d_output, argmax, d_input: d_conv, epilogue });
    if !fused {
        lab.run(BiasActivationBackward::of_epilogue(out_channels, d_conv, d_bias_of(output)));
    }
    [pooled, d_conv, d_bias].map(|span| lab.get(span))
}

/// The gradient of a layer's input, and the bias gradient of the preceding layer; `fused` or in sequence.
fn input_gradient<B: Backend>(lab: &mut Lab<B>, layer: Layer, activation: Activation, fused: bool) -> [Vec<f32>; 2] {
    lab.clear();
    let (channels, inputs, outputs, weights) = match layer {
        Layer::Conv(op, batch) => {
            let outputs = batch * op.output().expect("fits").len();
            (op.input.channels, batch * op.input.len(), outputs, op.weight_len())
        }
        Layer::Linear(op, batch) => (op.in_features, batch * op.in_features, batch * op.out_features, op.weight_len()),
    };
    let d_output = lab.put(Region::Arena, &random(outputs, 1));
    let weight = lab.put(Region::Parameters, &random(weights, 2));
    let output = lab.put(Region::Arena, &random(inputs, 3));
    let d_input = lab.empty(Region::Arena, inputs);
    let d_bias = lab.empty(Region::Gradients, channels);
    let end = GradientEpilogue { activation, output, relu_mask: None, d_bias: Some(d_bias) };
    let epilogue = fused.then_some(end);
    match layer {
        Layer::Conv(op, _) => {
            let (added, norm) = (None, None);
            lab.run(Conv2dBackwardInput { op, d_output, weight, d_input, added, epilogue, norm });
        }
        Layer::Linear(op, _) => lab.run(LinearBackwardInput { op, d_output, weight, d_input, epilogue }),
    }
    if !fused {
        lab.run(BiasActivationBackward::of_epilogue(channels, d_input, end));
    }
    [d_input, d_bias].map(|span| lab.get(span))
}

#[derive(Clone, Copy, Debug)]
enum Layer {
    Conv(Conv2d, usize),
    Linear(Linear, usize),
}

fn layers() -> Vec<Layer> {
    let conv = |[height, width, channels]: [usize; 3], out_channels, shape, batch| {
        Layer::Conv(Conv2d::new(Shape::new(height, width, channels), out_channels, window(shape)), batch)
    };
    let linear = |in_features, out_features, batch| Layer::Linear(Linear { in_features, out_features }, batch);
    vec![
        conv([6, 5, 16], 8, [3, 1, 0], 3),
        conv([6, 6, 16], 16, [3, 1, 0], 2), // Winograd
        conv([6, 5, 3], 5, [3, 2, 1], 1),
        conv([20, 20, 8], 4, [1, 1, 0], 2),
        conv([5, 4, 1], 8, [3, 1, 1], 2),
        linear(40, 9, 5),
        linear(7, 10, 1),
        linear(128, 10, 70),
    ]
}

/// Compares a backend's fused operators with separate operators on the CPU.
pub fn check_epilogues<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for activation in ACTIVATIONS {
        for &case in POOLED {
            let expected = conv_pool(&mut cpu(), case, activation, Form::Separate, random);
            let got = conv_pool(lab, case, activation, Form::Fused, random);
            compare_parts(&format!("{case:?} {activation}"), &got, &expected, tolerance);
        }
    }
    check_gradient_epilogues(lab, tolerance);
}

/// The same of input gradients only, where no rounding decides about a maximum.
pub fn check_gradient_epilogues<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for activation in ACTIVATIONS {
        for layer in layers() {
            let expected = input_gradient(&mut cpu(), layer, activation, false);
            let got = input_gradient(lab, layer, activation, true);
            compare_parts(&format!("{layer:?} {activation}"), &got, &expected, tolerance);
        }
    }
}

fn compare_parts(what: &str, got: &[Vec<f32>], expected: &[Vec<f32>], tolerance: Tolerance) {
    for (part, (got, expected)) in got.iter().zip(expected).enumerate() {
        let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
        let scale = expected.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
        let tolerance = Tolerance { absolute: tolerance.absolute * scale, ..tolerance };
        compare(&format!("{what} part {part}"), got, &expected, tolerance);
    }
}

/// Whole numbers make all kinds of ties, including between maxima of zero and below. The CPU's Winograd convolutions do not
/// sum them exactly, so the expected outputs are rounded to what they are. A backend `by_winograd` is not checked on such
/// convolutions: another test compares their ties.
pub fn check_ties<B: Backend>(lab: &mut Lab<B>, by_winograd: bool) {
    let few =
        |len: usize, seed: u32| -> Vec<f32> { random(len, seed).iter().map(|value| (2.0 * value).round()).collect() };
    for activation in ACTIVATIONS {
        for &case in POOLED.iter().filter(|(input, ..)| !by_winograd || input[2] < 16) {
            let expected = conv_pool(&mut cpu(), case, activation, Form::Rounded, few);
            let got = conv_pool(lab, case, activation, Form::Fused, few);
            assert_eq!(got[0], expected[0], "{case:?} {activation}");
            let places = |values: &[f32]| values.iter().map(|&value| value != 0.0).collect::<Vec<_>>();
            assert_eq!(places(&got[1]), places(&expected[1]), "{case:?} {activation}: other maxima were chosen");
        }
    }
}

/// A NaN in an image must reach the pooled output with every activation.
pub fn check_nan<B: Backend>(lab: &mut Lab<B>) {
    let with_nan = |len: usize, seed: u32| {
        let mut values = random(len, seed);
        if seed == 1 {
            values[len / 2] = f32::NAN;
        }
        values
    };
    for activation in ACTIVATIONS {
        let case = POOLED[0];
        let expected = conv_pool(&mut cpu(), case, activation, Form::Separate, with_nan);
        let got = conv_pool(lab, case, activation, Form::Fused, with_nan);
        let holes = |values: &[f32]| values.iter().map(|value| value.is_nan()).collect::<Vec<_>>();
        assert!(expected[0].iter().any(|value| value.is_nan()));
        assert_eq!(holes(&got[0]), holes(&expected[0]), "{activation}");
    }
}

/// The output of a convolution to which a residual is added, fused or in sequence. The residual is the input if that has
/// its shape.
fn conv_residual<B: Backend>(lab: &mut Lab<B>, case: &Case, fused: bool) -> Vec<f32> {
    lab.clear();
    let &Case::Conv2d { op, activation, batch } = case else { panic!("{case:?} is no convolution") };
    let shape = op.output().expect("fits");
    let input = lab.put(Region::Arena, &random(batch * op.input.len(), 1));
    let weight = lab.put(Region::Parameters, &random(op.weight_len(), 2));
    let bias = Some(lab.put(Region::Parameters, &random(op.out_channels, 3)));
    let other = lab.put(Region::Arena, &random(batch * shape.len(), 4));
    let term = if shape == op.input { input } else { other };
    let output = lab.empty(Region::Arena, other.len);
    let (residual, pool, statistics) = (Some(term), None, None);
    let conv = Conv2dForward { op, activation, input, weight, bias, residual, output, pool, statistics };
    if fused {
        lab.run(conv);
    } else {
        lab.run(Conv2dForward { activation: Activation::Identity, residual: None, ..conv });
        lab.run(Add { a: output, b: term, output });
        let activated = lab.empty(Region::Arena, other.len);
        lab.run(ActivationForward { op: activation, input: output, output: activated });
        return lab.get(activated);
    }
    lab.get(output)
}

fn residual_cases() -> impl Iterator<Item = Case> {
    let blocks = [[6, 6, 16], [7, 5, 4]].map(|shape| conv(shape, shape[2], [3, 1, 1], 3));
    let activated = blocks.into_iter().flat_map(|case| ACTIVATIONS.map(|activation| case.clone().with(activation)));
    conv_cases().into_iter().chain(activated)
}

/// Compares a backend's sums of convolution and residual with separate operators on the CPU.
pub fn check_residuals<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for case in residual_cases() {
        let expected: Vec<f64> = conv_residual(&mut cpu(), &case, false).iter().map(|&value| value.into()).collect();
        let scale = expected.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
        let tolerance = Tolerance { absolute: tolerance.absolute * scale, ..tolerance };
        compare(&format!("{case:?} + residual"), &conv_residual(lab, &case, true), &expected, tolerance);
    }
}

#[test]
fn a_fused_residual_changes_no_bit() {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for set in Instructions::available() {
        let mut lab = cpu_with(set);
        for case in residual_cases() {
            let expected = conv_residual(&mut lab, &case, false);
            assert_eq!(bits(&conv_residual(&mut lab, &case, true)), bits(&expected), "{}: {case:?}", set.name());
        }
    }
}

#[test]
fn fused_epilogues_match_separate_operators() {
    check_epilogues(&mut cpu(), FP32);
    check_ties(&mut cpu(), true);
    check_nan(&mut cpu());
}

#[test]
fn pooling_in_winograd_tiles_matches_separate_pooling() {
    let cases: [Pooled; 4] = [
        ([6, 10, 16], 48, [3, 1, 0], [2, 2, 0], 40), // pieces of several samples, a narrow panel
        ([28, 12, 16], 16, [3, 1, 1], [2, 2, 0], 1), // pieces of one sample
        ([9, 8, 16], 16, [3, 1, 0], [2, 2, 0], 1),   // partial tiles are pooled afterwards
        ([8, 8, 16], 16, [3, 1, 0], [3, 2, 1], 2),   // other windows too
    ];
    // All kinds of ties, and one NaN.
    let values = |len: usize, seed: u32| -> Vec<f32> {
        let mut values: Vec<f32> = random(len, seed).iter().map(|value| (2.0 * value).round()).collect();
        if seed == 1 {
            values[len / 3] = f32::NAN;
        }
        values
    };
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for set in Instructions::available() {
        let mut lab = cpu_with(set);
        for (case, activation) in cases.into_iter().flat_map(|case| ACTIVATIONS.map(|activation| (case, activation))) {
            let expected = conv_pool(&mut lab, case, activation, Form::Separate, values);
            let got = conv_pool(&mut lab, case, activation, Form::Fused, values);
            assert_eq!(bits(&got[0]), bits(&expected[0]), "{}: {case:?} {activation}", set.name());
            let places = |d_input: &[f32]| d_input.iter().map(|&value| value != 0.0).collect::<Vec<_>>();
            assert_eq!(places(&got[1]), places(&expected[1]), "{}: {case:?} {activation}: other maxima", set.name());
        }
    }
}

#[test]
fn fused_pooling_works_without_argmax() {
    let mut lab: Lab<Cpu> = cpu();
    let op = Conv2d::new(Shape::new(4, 4, 1), 1, window([1, 1, 0]));
    let pool = MaxPool2d { input: Shape::new(4, 4, 1), window: window([4, 4, 0]), ceil_mode: false };
    let input = lab.put(Region::Arena, &random(16, 0));
    let weight = lab.put(Region::Parameters, &[1.0]);
    let (output, pooled) = (lab.empty(Region::Arena, 16), lab.empty(Region::Arena, 1));
    let pool = Some(PoolEpilogue { op: pool, output: pooled, argmax: None });
    let (activation, statistics) = (Activation::Identity, None);
    lab.run(Conv2dForward { op, activation, input, weight, bias: None, residual: None, output, pool, statistics });
    let largest = random(16, 0).into_iter().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(lab.get(pooled), [largest]);
}

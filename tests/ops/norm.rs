//! Batch normalisation: gradients, running statistics, evaluation, in place, and PyTorch's numbers.

use std::fs;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::ops::{
    Activation, Backend, BatchNorm2d, BatchNorm2dBackwardInput, BatchNorm2dBackwardSums, BatchNorm2dForward,
    BatchNorm2dStatistics, Region, Span,
};
use cnn_cuda::shape::Shape;

use super::case::{Case, Results};
use super::lab::{Lab, random};
use super::pytorch::Tensors;
use super::{FP32, Tolerance, check_op, compare, cpu, reference};

const LEAKY: Activation = Activation::LeakyRelu { slope: 0.125 };

/// Channels that are and are not a multiple of a vector, more channels than a loop is wide, and several pieces of rows.
pub fn cases() -> Vec<Case> {
    let case = |input: [usize; 3], activation, residual, batch| {
        let op = BatchNorm2d::new(Shape::new(input[0], input[1], input[2]));
        Case::BatchNorm2d { op, activation, residual, batch }
    };
    vec![
        case([3, 5, 3], Activation::Identity, false, 2),
        case([3, 5, 3], LEAKY, true, 2),
        case([4, 3, 8], Activation::Tanh, false, 3),
        case([4, 3, 16], LEAKY, true, 3),
        case([1, 1, 5], Activation::Identity, true, 7),
        case([2, 2, 264], LEAKY, false, 2),
    ]
}

#[test]
fn batch_normalisation() {
    cases().into_iter().for_each(check_op);
}

/// A case's operators and the spans of its tensors.
pub struct Spans {
    statistics: BatchNorm2dStatistics,
    forward: BatchNorm2dForward,
    sums: BatchNorm2dBackwardSums,
    backward: BatchNorm2dBackwardInput,
}

impl Spans {
    fn run_forward<B: Backend>(&self, lab: &mut Lab<B>) {
        lab.run(self.statistics);
        lab.run(self.forward);
    }

    fn run_backward<B: Backend>(&self, lab: &mut Lab<B>) {
        lab.run(self.sums);
        lab.run(self.backward);
    }

    /// The normalisation with the running statistics.
    fn evaluation(&self) -> BatchNorm2dForward {
        BatchNorm2dForward { statistics: self.statistics.running, training: false, ..self.forward }
    }
}

/// Allocates a case's tensors, and writes its inputs, its output's gradient, and running mean 0 and variance 1.
fn lay_out<B: Backend>(
    lab: &mut Lab<B>,
    op: BatchNorm2d,
    activation: Activation,
    inputs: &[Vec<f32>],
    d_output: &[f32],
) -> Spans {
    let channels = op.input.channels;
    let [weight, bias] = [1, 2].map(|which| lab.put(Region::Parameters, &inputs[which]));
    let running = lab.put(Region::Statistics, &[vec![0.0; channels], vec![1.0; channels]].concat());
    let saved = lab.empty(Region::Statistics, 2 * channels);
    let input = lab.put(Region::Arena, &inputs[0]);
    let residual = inputs.get(3).map(|residual| lab.put(Region::Arena, residual));
    let output = lab.empty(Region::Arena, input.len);
    let statistics = BatchNorm2dStatistics { op, input, running, saved };
    let (training, of) = (true, saved);
    let forward =
        BatchNorm2dForward { op, activation, input, weight, bias, statistics: of, training, residual, output };
    let sums = BatchNorm2dBackwardSums {
        op,
        activation,
        input,
        weight,
        bias,
        saved,
        output: residual.map(|_| output),
        d_output: lab.put(Region::Arena, d_output),
        d_weight: lab.empty(Region::Gradients, channels),
        d_bias: lab.empty(Region::Gradients, channels),
    };
    let BatchNorm2dBackwardSums { d_output, d_weight, d_bias, .. } = sums;
    // With a residual, the sums multiply the gradient by the activation's derivative.
    let activation = if residual.is_some() { Activation::Identity } else { activation };
    let d_input = lab.empty(Region::Arena, input.len);
    let backward = BatchNorm2dBackwardInput {
        op,
        activation,
        input,
        d_output,
        weight,
        bias,
        statistics: saved,
        d_weight: Some(d_weight),
        d_bias: Some(d_bias),
        d_input,
    };
    Spans { statistics, forward, sums, backward }
}

/// Runs a case in training mode.
pub fn run<B: Backend>(
    lab: &mut Lab<B>,
    op: BatchNorm2d,
    activation: Activation,
    inputs: &[Vec<f32>],
    d_output: &[f32],
) -> Results {
    let spans = lay_out(lab, op, activation, inputs, d_output);
    spans.run_forward(lab);
    spans.run_backward(lab);
    let Spans { forward, sums, backward, .. } = spans;
    let mut gradients = [backward.d_input, sums.d_weight, sums.d_bias].map(|span| lab.get(span)).to_vec();
    if forward.residual.is_some() {
        gradients.push(lab.get(backward.d_output));
    }
    Results { output: lab.get(forward.output), gradients }
}

/// Compares the statistics of values far from zero, and an evaluation that uses them, with f64.
pub fn check_statistics<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    let op = BatchNorm2d { momentum: 0.25, ..BatchNorm2d::new(Shape::new(30, 40, 8)) };
    let (batch, channels) = (5, 8);
    // fp16 represents multiples of 1/64 exactly in this range.
    let values: Vec<f32> = random(batch * op.input.len(), 0).iter().map(|x| (x * 64.0).round() / 64.0 + 20.0).collect();
    let inputs = [values, random(channels, 1), random(channels, 2)];
    lab.clear();
    let spans = lay_out(lab, op, Activation::Relu, &inputs, &vec![0.0; batch * op.input.len()]);
    spans.run_forward(lab);
    let x: Vec<f64> = inputs[0].iter().map(|&x| x.into()).collect();
    let rows = (x.len() / channels) as f64;
    let per_channel = |pick: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
        (0..channels)
            .map(|c| reference::moments(&x, c, channels))
            .map(|(mean, variance)| pick(mean, variance))
            .collect()
    };
    let inverse = |_: f64, variance: f64| 1.0 / (variance + f64::from(op.epsilon)).sqrt();
    let saved = [per_channel(&|mean, _| mean), per_channel(&inverse)].concat();
    compare("saved statistics", &lab.get(spans.sums.saved), &saved, FP32);
    let running_mean = per_channel(&|mean, _| 0.25 * mean);
    let running_variance = per_channel(&|_, variance| 0.75 + 0.25 * variance * rows / (rows - 1.0));
    let running = lab.get(spans.statistics.running);
    compare("running mean", &running[..channels], &running_mean, FP32);
    compare("running variance", &running[channels..], &running_variance, FP32);
    let [input, output] = [spans.forward.input, spans.forward.output].map(|span| span.first(2 * op.input.len()));
    lab.run(BatchNorm2dForward { input, output, ..spans.evaluation() });
    let expected: Vec<f64> = (0..2 * op.input.len())
        .map(|at| {
            let c = at % channels;
            let scale = f64::from(inputs[1][c]) / (running_variance[c] + f64::from(op.epsilon)).sqrt();
            ((x[at] - running_mean[c]) * scale + f64::from(inputs[2][c])).max(0.0)
        })
        .collect();
    compare("evaluation", &lab.get(output), &expected, tolerance);
    assert_eq!(lab.get(spans.statistics.running), running, "evaluation changes the running statistics");
    let tiny = BatchNorm2d::new(Shape::new(1, 1, channels));
    let tiny = BatchNorm2dStatistics { op: tiny, input: input.first(channels), ..spans.statistics };
    let error = format!("{:#}", lab.try_run(tiny).expect_err("one value has no variance"));
    assert!(error.contains("--batch-size"), "{error}");
}

/// A plan may let the output overwrite the input in evaluation, and the input's gradient overwrite the output's.
pub fn check_in_place<B: Backend>(lab: &mut Lab<B>) {
    for case in cases() {
        let Case::BatchNorm2d { op, activation, residual, batch } = case else { continue };
        let inputs = Case::random_inputs(&case);
        let d_output = random(batch * op.input.len(), 9);
        lab.clear();
        let separate = lay_out(lab, op, activation, &inputs, &d_output);
        let evaluation = separate.evaluation();
        lab.run(evaluation);
        let expected = lab.get(evaluation.output);
        let copied = lab.put(Region::Arena, &inputs[0]);
        lab.run(BatchNorm2dForward { input: copied, output: copied, ..evaluation });
        assert_eq!(lab.get(copied), expected, "{op:?} in place");
        separate.run_forward(lab);
        let mut gradients = |d_input: Span| {
            lab.backend.write(separate.sums.d_output, &d_output).expect("write");
            lab.run(separate.sums);
            lab.run(BatchNorm2dBackwardInput { d_input, ..separate.backward });
            lab.get(d_input)
        };
        let expected = gradients(separate.backward.d_input);
        if !residual {
            assert_eq!(gradients(separate.sums.d_output), expected, "{op:?} in place");
        }
    }
}

/// With running statistics, which do not depend on the input, the gradient is only scaled; also in place.
pub fn check_running<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for case in cases() {
        let Case::BatchNorm2d { op, activation, residual: false, batch } = case else { continue };
        let (inputs, channels) = (Case::random_inputs(&case), op.input.channels);
        let d_output = random(batch * op.input.len(), 9);
        lab.clear();
        let spans = lay_out(lab, op, activation, &inputs, &d_output);
        let variances: Vec<f32> = random(channels, 11).iter().map(|x| x * x + 0.5).collect();
        let running = [random(channels, 10), variances].concat();
        lab.backend.write(spans.statistics.running, &running).expect("write");
        let statistics = spans.statistics.running;
        let backward = BatchNorm2dBackwardInput { statistics, d_weight: None, d_bias: None, ..spans.backward };
        lab.run(backward);
        let expected: Vec<f64> = (0..d_output.len())
            .map(|at| {
                let c = at % channels;
                let scale = f64::from(inputs[1][c]) / f64::from(running[channels + c] + op.epsilon).sqrt();
                let before = f64::from(inputs[0][at] - running[c]) * scale + f64::from(inputs[2][c]);
                scale * f64::from(activation.backward(activation.apply(before as f32), d_output[at]))
            })
            .collect();
        compare("running statistics", &lab.get(backward.d_input), &expected, tolerance);
        lab.run(BatchNorm2dBackwardInput { d_input: backward.d_output, ..backward });
        assert_eq!(lab.get(backward.d_output), lab.get(backward.d_input), "{op:?} in place");
        assert_eq!(lab.get(statistics), running);
    }
}

/// `tests/reference/norm.safetensors`: PyTorch's outputs, gradients and running statistics.
pub fn check_pytorch<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    let bytes = fs::read("tests/reference/norm.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    let as_f64 = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    for name in ["plain", "relu", "residual", "features", "offset"] {
        let tensor = |key: &str| tensors.channels_last(&format!("{name}.{key}"));
        let shape = tensors.get(&format!("{name}.input")).1;
        let size = |axis: usize| shape.get(axis).copied().unwrap_or(1);
        let op = BatchNorm2d::new(Shape::new(size(2), size(3), shape[1]));
        let (residual, activation) = match name {
            "relu" => (false, Activation::Relu),
            "residual" => (true, Activation::Relu),
            _ => (false, Activation::Identity),
        };
        let keys = ["input", "weight", "bias", "residual"].map(String::from);
        let keys = &keys[..if residual { 4 } else { 3 }];
        let inputs: Vec<Vec<f32>> = keys.iter().map(|key| tensor(key)).collect();
        lab.clear();
        let spans = lay_out(lab, op, activation, &inputs, &tensor("d_output"));
        let running = [tensor("before.running_mean"), tensor("before.running_var")].concat();
        lab.backend.write(spans.statistics.running, &running).expect("write");
        spans.run_forward(lab);
        spans.run_backward(lab);
        let mut check = |key: &str, span: Span| {
            compare(&format!("{name} {key}"), &lab.get(span), &as_f64(tensor(key)), tolerance);
        };
        check("output", spans.forward.output);
        check("d_input", spans.backward.d_input);
        check("d_weight", spans.sums.d_weight);
        check("d_bias", spans.sums.d_bias);
        if residual {
            check("d_residual", spans.backward.d_output);
        }
        let running = as_f64([tensor("after.running_mean"), tensor("after.running_var")].concat());
        compare(&format!("{name} running statistics"), &lab.get(spans.statistics.running), &running, tolerance);
        let evaluation = spans.evaluation();
        lab.run(evaluation);
        compare(&format!("{name} evaluated"), &lab.get(evaluation.output), &as_f64(tensor("evaluated")), tolerance);
    }
}

#[test]
fn statistics_are_recorded_and_used() {
    check_statistics(&mut cpu(), FP32);
    check_in_place(&mut cpu());
    check_running(&mut cpu(), FP32);
}

#[test]
fn batch_normalisation_matches_pytorch() {
    check_pytorch(&mut cpu(), FP32);
}

/// Values of 1000 ± 1, for which a sum of squares in fp32 would get no digit of the variance right.
#[test]
fn a_large_mean_costs_no_precision() {
    let mut lab: Lab<Cpu> = cpu();
    let op = BatchNorm2d::new(Shape::new(64, 64, 3));
    let x: Vec<f32> = random(2 * op.input.len(), 0).iter().map(|x| x + 1000.0).collect();
    let inputs = [x.clone(), vec![1.0; 3], vec![0.0; 3]];
    let spans = lay_out(&mut lab, op, Activation::Identity, &inputs, &x);
    lab.run(spans.statistics);
    let x: Vec<f64> = x.into_iter().map(f64::from).collect();
    let inverse: Vec<f64> = (0..3).map(|c| 1.0 / (reference::moments(&x, c, 3).1 + 1e-5).sqrt()).collect();
    compare("inverse deviation", &lab.get(spans.sums.saved)[3..], &inverse, FP32);
}

//! Compares every operator with a plain f64 reference, its central differences, and PyTorch's numbers.

pub mod accumulate;
mod activation;
mod augment;
mod bf16;
pub mod case;
mod conv;
pub mod cuda;
mod cuda_augment;
mod cuda_cudnn;
mod cuda_implicit;
mod cuda_lt;
mod cuda_neighbours;
pub mod dropout;
mod epilogue;
mod gather;
mod instructions;
mod join;
pub mod lab;
mod linear;
mod loss;
mod lrn;
mod mix;
mod muon;
mod norm;
mod norm_epilogue;
mod optimizer;
mod pointwise;
mod pool;
pub mod pytorch;
mod pytorch_flatten;
mod races;
mod reference;
mod views;

use cnn_cuda::cpu::{Cpu, Instructions};
use cnn_cuda::ops::{Backend, Precision};

use case::{Case, Results};
use lab::Lab;

/// `|a − b| ≤ absolute + relative · |b|`
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

/// fp32 sums of up to a few thousand products of values near 1: rounding errors of 6e-8 each, added like a random
/// walk, stay below 1e-5.
pub const FP32: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };

/// A CPU backend with two threads, so that work is divided.
pub fn cpu() -> Lab<Cpu> {
    Lab::new(Cpu::new(Some(2)).expect("two threads"))
}

/// The same with an available instruction set.
pub fn cpu_with(set: Instructions) -> Lab<Cpu> {
    Lab::new(Cpu::with_options(Some(2), set, Precision::Fp32).expect("an available set"))
}

/// How many elements of a gradient are checked by central differences if all are also compared with the CPU's.
pub const SOME: usize = 40;

/// Checks the forward and backward pass of `case` on the CPU.
pub fn check_op(case: Case) {
    check_on(&mut cpu(), &case, FP32);
}

/// Compares the output with the f64 reference, and every gradient with the reference's central differences.
pub fn check_on<B: Backend>(lab: &mut Lab<B>, case: &Case, tolerance: Tolerance) {
    check_some_on(lab, case, tolerance, usize::MAX);
}

/// Like [`check_on`], but compares only about `count` evenly spaced elements of every gradient with central
/// differences, each of which takes two forward passes, and compares all elements with the CPU's.
pub fn check_some_on<B: Backend>(lab: &mut Lab<B>, case: &Case, tolerance: Tolerance, count: usize) {
    Expected::new(case, count).check_on(lab, tolerance);
}

/// The right results of a case on random values.
pub struct Expected<'a> {
    case: &'a Case,
    inputs: Vec<Vec<f32>>,
    d_output: Vec<f32>,
    output: Vec<f64>,
    /// All gradients as the CPU computes them; empty if all elements are compared with central differences.
    on_cpu: Vec<Vec<f64>>,
    /// The indices of some elements of every gradient, and their central differences.
    differences: Vec<(Vec<usize>, Vec<f64>)>,
}

impl<'a> Expected<'a> {
    /// With central differences for about `count` evenly spaced elements of every gradient.
    pub fn new(case: &'a Case, count: usize) -> Self {
        Self::of_rounded(case, count, |value| value)
    }

    /// The same, of values that are rounded first.
    pub fn of_rounded(case: &'a Case, count: usize, round: fn(f32) -> f32) -> Self {
        let rounded = |values: Vec<f32>| values.into_iter().map(round).collect::<Vec<f32>>();
        let inputs: Vec<Vec<f32>> = case.random_inputs().into_iter().map(rounded).collect();
        let as_f64: Vec<Vec<f64>> = inputs.iter().map(|values| values.iter().map(|&v| v.into()).collect()).collect();
        let output = reference::forward(case, &as_f64);
        let d_output = rounded(lab::random(output.len(), 99));
        let gradients = case.run(&mut cpu(), &inputs, &d_output).gradients;
        let differences = gradients.iter().enumerate().map(|(which, gradient)| {
            // An odd step reaches all channels and positions.
            let indices: Vec<usize> = (0..gradient.len()).step_by((gradient.len() / count) | 1).collect();
            let differences = central_differences(case, &as_f64, which, &d_output, &indices);
            (indices, differences)
        });
        let differences = differences.collect();
        let on_cpu = if count == usize::MAX { Vec::new() } else { gradients };
        let on_cpu = on_cpu.iter().map(|values| values.iter().map(|&v| v.into()).collect()).collect();
        Self { case, inputs, d_output, output, on_cpu, differences }
    }

    /// Runs the case on a backend and compares its results.
    pub fn check_on<B: Backend>(&self, lab: &mut Lab<B>, tolerance: Tolerance) {
        let Self { case, inputs, d_output, .. } = self;
        let Results { output, gradients } = case.run(lab, inputs, d_output);
        compare(&format!("{case:?} output"), &output, &self.output, tolerance);
        // A gradient sums over more terms than an output, so the tolerance grows with its largest value.
        let scaled = |values: &[f64], factor: f64| {
            let scale = values.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
            Tolerance { absolute: factor * tolerance.absolute * scale, ..tolerance }
        };
        assert_eq!(gradients.len(), self.differences.len(), "{case:?}");
        for (which, (gradient, (indices, differences))) in gradients.iter().zip(&self.differences).enumerate() {
            if let Some(all) = self.on_cpu.get(which) {
                compare(&format!("{case:?} gradient {which} against the CPU's"), gradient, all, scaled(all, 2.0));
            }
            let gradient: Vec<f32> = indices.iter().map(|&index| gradient[index]).collect();
            compare(&format!("{case:?} gradient {which}"), &gradient, differences, scaled(differences, 1.0));
        }
    }
}

/// `∂(Σ d_output · output) / ∂input[which][index]` for each of `indices`, by central differences in f64.
fn central_differences(
    case: &Case,
    inputs: &[Vec<f64>],
    which: usize,
    d_output: &[f32],
    indices: &[usize],
) -> Vec<f64> {
    const H: f64 = 1e-6;
    let mut inputs = inputs.to_vec();
    let objective = |inputs: &[Vec<f64>]| -> f64 {
        reference::forward(case, inputs).iter().zip(d_output).map(|(y, &d)| y * f64::from(d)).sum()
    };
    let differences = indices.iter().map(|&index| {
        let value = inputs[which][index];
        inputs[which][index] = value + H;
        let above = objective(&inputs);
        inputs[which][index] = value - H;
        let below = objective(&inputs);
        inputs[which][index] = value;
        (above - below) / (2.0 * H)
    });
    differences.collect()
}

/// Panics with the worst element if any is outside the tolerance. NaN always is.
pub fn compare(what: &str, got: &[f32], expected: &[f64], tolerance: Tolerance) {
    assert_eq!(got.len(), expected.len(), "{what}: wrong length");
    let excess = |(got, expected): (&f32, &f64)| {
        let error = (f64::from(*got) - expected).abs() / (tolerance.absolute + tolerance.relative * expected.abs());
        if error.is_nan() { f64::INFINITY } else { error }
    };
    let worst = got.iter().zip(expected).map(excess).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((index, error)) = worst {
        assert!(error <= 1.0, "{what}: element {index} is {} instead of {}", got[index], expected[index]);
    }
}

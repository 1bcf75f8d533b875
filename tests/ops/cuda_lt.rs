//! Linear layers on CUDA with cuBLASLt, whose epilogues compute bias and ReLU or their gradients. Compares them with
//! separate operators on the CPU, in every precision, also if cuBLASLt is missing or fails.

use std::collections::BTreeMap;

use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::ops::{
    Activation, Algorithm, Backend, BiasActivationBackward, Candidate, Choice, GradientEpilogue, Linear,
    LinearBackwardInput, LinearBackwardWeight, LinearForward, Op, Precision, Region, Span, Step,
};

use super::cuda::{FP16, TF32, lab_by, options};
use super::lab::{Lab, random};
use super::{FP32, SOME, Tolerance, check_some_on, compare, cpu};
use crate::support::cuda::on_cuda;
use crate::support::emulator::on_emulator;

/// Input, hidden and output features, and the batch size.
const SIZES: [([usize; 3], usize); 4] = [([40, 24, 9], 5), ([7, 130, 10], 3), ([128, 256, 10], 33), ([3, 5, 2], 1)];

/// A sequence of a linear layer with an activation, the second layer's input gradient with the activation's gradient,
/// and the first layer's weight gradient.
struct TwoLayers {
    steps: Vec<Step>,
    /// The inputs, which are written before a run.
    given: Vec<(Span, Vec<f32>)>,
    /// The layer's output, the gradient before its activation, and its bias and weight gradients.
    results: [Span; 4],
}

impl TwoLayers {
    fn new<B: Backend>(
        lab: &mut Lab<B>,
        ([inputs, features, outputs], batch): ([usize; 3], usize),
        activation: Activation,
        fused: bool,
    ) -> Self {
        lab.clear();
        let (first, second) = (
            Linear { in_features: inputs, out_features: features },
            Linear { in_features: features, out_features: outputs },
        );
        let given = [
            (Region::Arena, batch * inputs),
            (Region::Parameters, first.weight_len()),
            (Region::Parameters, features),
            (Region::Parameters, second.weight_len()),
            (Region::Arena, batch * outputs),
        ];
        let given = given.map(|(region, len)| lab.empty(region, len));
        let [input, weight, bias, second_weight, d_output] = given;
        let [output, d_input] = [0; 2].map(|_| lab.empty(Region::Arena, batch * features));
        let relu_mask = fused.then(|| lab.empty(Region::Indices, batch * first.relu_mask_len()));
        let [d_bias, d_weight] = [features, first.weight_len()].map(|len| lab.empty(Region::Gradients, len));
        let end = GradientEpilogue { activation, output, relu_mask, d_bias: Some(d_bias) };
        let forward = LinearForward { op: first, activation, input, weight, bias: Some(bias), output, relu_mask };
        let epilogue = fused.then_some(end);
        let backward_input = LinearBackwardInput { op: second, d_output, weight: second_weight, d_input, epilogue };
        let separate = (!fused).then(|| BiasActivationBackward::of_epilogue(features, d_input, end).into());
        let fused_d_bias = fused.then_some(d_bias);
        let backward_weight =
            LinearBackwardWeight { op: first, input, d_output: d_input, d_weight, d_bias: fused_d_bias };
        let ops = [Some(forward.into()), Some(backward_input.into()), separate, Some(backward_weight.into())];
        let step = |op: Op| Step { label: op.operands().describe(), op };
        Self {
            steps: ops.into_iter().flatten().map(step).collect(),
            given: (1..).zip(given).map(|(stream, span)| (span, random(span.len, stream))).collect(),
            results: [output, d_input, d_bias, d_weight],
        }
    }

    /// Compiles one program, runs it `passes` times and returns the results of each run.
    fn run<B: Backend>(self, lab: &mut Lab<B>, passes: usize) -> Vec<[Vec<f32>; 4]> {
        let mut program = lab.backend.compile(self.steps).expect("a program");
        // Trying algorithms overwrites memory, so the inputs are written afterwards.
        self.given.iter().for_each(|(span, values)| lab.backend.write(*span, values).expect("write"));
        let pass = |_| {
            lab.backend.run(&mut program).expect("a run");
            self.results.map(|span| lab.get(span))
        };
        (0..passes).map(pass).collect()
    }
}

/// The results of one run.
fn two_layers<B: Backend>(
    lab: &mut Lab<B>,
    case: ([usize; 3], usize),
    activation: Activation,
    fused: bool,
) -> [Vec<f32>; 4] {
    TwoLayers::new(lab, case, activation, fused).run(lab, 1).remove(0)
}

fn check_two_layers(lab: &mut Lab<Cuda>, tolerance: Tolerance) {
    for activation in [Activation::Identity, Activation::Relu, Activation::LeakyRelu { slope: 0.25 }] {
        for case in SIZES {
            let expected = two_layers(&mut cpu(), case, activation, false);
            let got = two_layers(lab, case, activation, true);
            for (part, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
                let scale = expected.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
                let tolerance = Tolerance { absolute: tolerance.absolute * scale, ..tolerance };
                compare(&format!("{case:?} {activation} part {part}"), got, &expected, tolerance);
            }
        }
    }
}

#[test]
fn cublaslt_fuses_relu_and_its_gradient() {
    on_cuda(|| {
        for (precision, tolerance) in [(Precision::Fp32, FP32), (Precision::Tf32, TF32), (Precision::Fp16, FP16)] {
            let mut lab = lab_by(precision, Algorithm::CublasLt);
            check_two_layers(&mut lab, tolerance);
            for direction in ["linear_forward", "linear_backward_input", "linear_backward_weight"] {
                let used = |choice: &Choice| {
                    choice.site.starts_with(direction) && choice.candidate.algorithm == Algorithm::CublasLt
                };
                let is_used = lab.backend.choices().iter().any(used);
                // Except with 16-bit storage, the input gradient's launch sums the bias gradient.
                let expected = precision.is_16_bit() || direction != "linear_backward_weight";
                assert_eq!(is_used, expected, "{precision}: {direction} by cuBLASLt");
            }
        }
        super::linear::cases()
            .iter()
            .for_each(|case| check_some_on(&mut lab_by(Precision::Fp32, Algorithm::CublasLt), case, FP32, SOME));
    });
}

/// A cuBLASLt epilogue would store the bias gradient in the product's type, but it must not be rounded to 16 bits.
#[test]
fn bias_gradients_are_summed_in_fp32() {
    on_cuda(|| {
        let algorithms = [Algorithm::Gemm, Algorithm::CublasLt].into_iter();
        let both = algorithms.flat_map(|algorithm| [Precision::Fp16, Precision::Bf16].map(|it| (algorithm, it)));
        for (algorithm, precision) in both {
            let mut lab = lab_by(precision, algorithm);
            for ([inputs, features, outputs], batch) in SIZES {
                let [_, d_input, d_bias, _] =
                    two_layers(&mut lab, ([inputs, features, outputs], batch), Activation::Relu, true);
                let sum = |column| d_input.iter().skip(column).step_by(features).map(|&d| f64::from(d)).sum();
                let expected: Vec<f64> = (0..features).map(sum).collect();
                compare(&format!("{algorithm:?}"), &d_bias, &expected, Tolerance { absolute: 1e-5, relative: 1e-5 });
            }
        }
    });
}

/// If the forward algorithm writes no ReLU mask, the backward pass must not use the mask of an earlier pass.
#[test]
fn a_relu_mask_is_used_only_if_the_forward_pass_wrote_it() {
    on_cuda(|| {
        for algorithm in [Algorithm::Gemm, Algorithm::Implicit] {
            check_two_layers(&mut lab_by(Precision::Fp32, algorithm), FP32);
        }
    });
}

/// Linear layers use cuBLAS if cuBLASLt is missing or proposes no algorithm.
#[test]
fn linear_layers_work_without_cublaslt() {
    for missing in ["CUDA_EMULATOR_CUBLASLT_CREATE", "CUDA_EMULATOR_CUBLASLT_PROPOSAL"] {
        // NOT_INITIALIZED and NOT_SUPPORTED.
        let settings = [(missing, if missing.ends_with("CREATE") { "1" } else { "15" })];
        on_emulator(&settings, || check_two_layers(&mut lab_by(Precision::Fp32, Algorithm::CublasLt), FP32));
    }
}

/// A forward product that is slower with cuBLASLt is chosen only if its ReLU mask saves more time in the backward pass.
#[test]
#[ignore = "long; CI runs it"]
fn forward_and_backward_algorithms_are_chosen_together() {
    for (extra, uses_lt) in [("4", true), ("5", false)] {
        let settings = [
            ("CUDA_EMULATOR_CUBLASLT_FORWARD_EXTRA", extra),
            ("USES_LT", if uses_lt { "yes" } else { "no" }),
            ("XDG_CACHE_HOME", "/dev/null"),
        ];
        on_emulator(&settings, || {
            let uses_lt = std::env::var("USES_LT").expect("set above") == "yes";
            let mut lab =
                Lab::new(Cuda::new(Options { algorithm: None, ..options(Precision::Fp32) }).expect("a CUDA device"));
            let case = SIZES[2];
            let expected = two_layers(&mut cpu(), case, Activation::Relu, false);
            let passes = TwoLayers::new(&mut lab, case, Activation::Relu, true).run(&mut lab, 3);
            for (pass, got) in passes.iter().enumerate() {
                for (got, expected) in got.iter().zip(&expected) {
                    let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
                    compare(&format!("pass {pass}"), got, &expected, Tolerance { absolute: 1e-4, ..FP32 });
                }
            }
            let mut choices = lab.backend.choices();
            choices.retain(|choice| !choice.site.contains("weight"));
            let times = |choice: &Choice| {
                let (by_lt, others): (Vec<&(Candidate, f64)>, Vec<_>) =
                    choice.microseconds.iter().partition(|(it, _)| it.algorithm == Algorithm::CublasLt);
                (by_lt[0].1, others.iter().map(|(_, time)| *time).fold(f64::INFINITY, f64::min))
            };
            assert_eq!(choices.len(), 2, "{choices:?}");
            let (mut by_lt, mut others) = (0.0, 0.0);
            for choice in &choices {
                assert_eq!(choice.candidate.algorithm == Algorithm::CublasLt, uses_lt, "{choices:?}");
                let (lt, other) = times(choice);
                assert!(
                    lt > other || !choice.site.contains("forward"),
                    "the forward product is not slower: {choice:?}"
                );
                (by_lt, others) = (by_lt + lt, others + other);
            }
            assert_eq!(by_lt < others, uses_lt, "{choices:?}");
        });
    }
}

/// In fp16, cuBLASLt's input gradient leaves the sum of the bias gradient to the weight gradient. If the sum costs more
/// there than the ReLU mask saves, cuBLASLt computes neither gradient. A resumed run keeps the recorded choice.
#[test]
#[ignore = "long; CI runs it"]
fn the_weight_gradient_sums_the_bias_gradient_only_if_that_is_faster() {
    for (forward, sum, uses_lt) in [("0", "3", false), ("2", "0", true)] {
        let settings = [
            ("CUDA_EMULATOR_CUBLASLT_FORWARD_EXTRA", forward),
            ("CUDA_EMULATOR_CUBLASLT_SUM_EXTRA", sum),
            ("USES_LT", if uses_lt { "yes" } else { "no" }),
            ("XDG_CACHE_HOME", "/dev/null"),
            // With the tiles of newer devices, implicit GEMM is ahead of both in the emulator's model of time.
            ("CUDA_EMULATOR_CC", "7.5"),
        ];
        on_emulator(&settings, || {
            let uses_lt = std::env::var("USES_LT").expect("set above") == "yes";
            let run = |recorded| {
                let options = Options { algorithm: None, recorded, ..options(Precision::Fp16) };
                let mut lab = Lab::new(Cuda::new(options).expect("a CUDA device"));
                let passes = TwoLayers::new(&mut lab, SIZES[2], Activation::Relu, true).run(&mut lab, 3);
                (passes, lab.backend.choices())
            };
            let (passes, choices) = run(BTreeMap::new());
            let expected = two_layers(&mut cpu(), SIZES[2], Activation::Relu, false);
            for (part, expected) in expected.iter().enumerate() {
                let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
                let scale = expected.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
                let tolerance = Tolerance { absolute: FP16.absolute * scale, ..FP16 };
                passes.iter().for_each(|pass| compare(&format!("part {part}"), &pass[part], &expected, tolerance));
            }
            assert_eq!(choices.len(), 3, "{choices:?}");
            for choice in choices.iter().filter(|choice| !choice.site.contains("forward")) {
                assert_eq!(choice.candidate.algorithm == Algorithm::CublasLt, uses_lt, "{choices:?}");
            }
            let weight = choices.iter().find(|choice| choice.site.contains("weight")).expect("a weight gradient");
            assert_eq!(weight.site.contains("with epilogue"), uses_lt, "{choices:?}");
            let algorithm = |choice: &Choice| (choice.site.clone(), choice.candidate.to_string());
            let (again, same) = run(choices.iter().map(algorithm).collect());
            assert_eq!((&again[0], &again[2]), (&passes[2], &passes[2]), "a resumed run differs");
            assert!(same.iter().map(algorithm).eq(choices.iter().map(algorithm)), "{same:?} after {choices:?}");
        });
    }
}

#[test]
fn a_failed_product_is_reported_with_its_size_and_status() {
    let stderr = on_emulator(&[("CUDA_EMULATOR_CUBLASLT_PRODUCT", "13")], || {
        let mut lab = lab_by(Precision::Fp32, Algorithm::CublasLt);
        let [input, output] = [0; 2].map(|_| lab.put(Region::Arena, &random(4, 1)));
        let [weight, bias] = [16, 4].map(|len| lab.put(Region::Parameters, &random(len, 2)));
        let (op, activation) = (Linear { in_features: 4, out_features: 4 }, Activation::Relu);
        let forward = LinearForward { op, activation, input, weight, bias: Some(bias), output, relu_mask: None };
        eprintln!("{:#}", lab.try_run(forward).expect_err("the product fails"));
    });
    if let Some(stderr) = stderr {
        assert!(stderr.contains("a matrix product of 1×4×4 by cuBLASLt: CUBLAS_STATUS_EXECUTION_FAILED: "), "{stderr}");
    }
}

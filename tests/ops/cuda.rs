//! Compares every operator on CUDA with f64, the CPU and PyTorch, in fp32, tf32, fp16 and bf16.

use std::collections::BTreeMap;
use std::fs;

use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::ops::{
    Algorithm, Backend, LossGradient, LossScale, Metrics, Optimizer, Precision, Region, SoftmaxCrossEntropy, Span,
    StepLoss, TrainingState,
};

use super::case::{Case, Results, conv, linear};
use super::lab::{Lab, optimizer_update, random};
use super::{
    Expected, FP32, SOME, Tolerance, accumulate, activation, check_some_on, compare, cpu, epilogue, gather, join, loss,
    lrn, mix, muon, norm, optimizer, pointwise, pool, pytorch, views,
};
use crate::support::{Need, cuda::on_cuda, skip, sources::MODULES};

/// Storage rounds every activation to 11 bits (4.9e-4), and a gradient sums a few of them.
pub const FP16: Tolerance = Tolerance { absolute: 4e-3, relative: 4e-3 };

/// The same with 8 bits.
pub const BF16: Tolerance = Tolerance { absolute: 3.2e-2, relative: 3.2e-2 };

/// Operands are rounded to 11 bits. The error of a sum of a hundred products is about ten times that of one.
pub const TF32: Tolerance = Tolerance { absolute: 5e-3, relative: 2e-3 };

/// Each precision with the tolerance of its results.
pub const ALL_PRECISIONS: [(Precision, Tolerance); 4] =
    [(Precision::Fp32, FP32), (Precision::Tf32, TF32), (Precision::Fp16, FP16), (Precision::Bf16, BF16)];

/// Graphs are off, so that an error appears at the launch that causes it; only tests of graphs turn them on.
pub fn options(precision: Precision) -> Options {
    Options {
        ordinal: 0,
        precision,
        workspace: 64 << 20,
        graphs: false,
        dependent_launches: true,
        algorithm: Some(Algorithm::Direct),
        tile: None,
        recorded: BTreeMap::new(),
    }
}

/// A value as fp16 stores it.
fn half(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

/// A value as bf16 stores it.
pub fn bfloat16(value: f32) -> f32 {
    half::bf16::from_f32(value).to_f32()
}

fn lab(precision: Precision) -> Lab<Cuda> {
    lab_by(precision, Algorithm::Direct)
}

pub fn lab_by(precision: Precision, algorithm: Algorithm) -> Lab<Cuda> {
    let options = Options { algorithm: Some(algorithm), ..options(precision) };
    Lab::new(Cuda::new(options).expect("a CUDA device"))
}

/// Implicit GEMM with a tile wherever it applies.
pub fn lab_by_tile(precision: Precision, tile: &'static str) -> Lab<Cuda> {
    let options = Options { algorithm: Some(Algorithm::Implicit), tile: Some(tile), ..options(precision) };
    Lab::new(Cuda::new(options).expect("a CUDA device"))
}

/// Whether there is a kernel for a product with this tile.
pub fn has_kernel(product: &str, tile: &str) -> bool {
    let declaration = format!("KERNEL(conv2d_{product}_{tile},");
    MODULES.iter().any(|module| {
        let source = fs::read_to_string(format!("kernels/{}.cu", module.name)).expect("a source");
        source.contains(&declaration)
    })
}

pub fn all_cases() -> Vec<Case> {
    let others =
        [pool::cases(), lrn::cases(), pointwise::cases(), activation::cases(), join::cases(), norm::cases()].concat();
    [super::conv::cases(), super::linear::cases(), others].concat()
}

#[test]
fn all_operators_in_fp32() {
    on_cuda(|| all_cases().iter().for_each(|case| check_some_on(&mut lab(Precision::Fp32), case, FP32, SOME)));
}

#[test]
#[ignore = "long; CI runs it"]
fn all_operators_in_tf32() {
    on_cuda(|| all_cases().iter().for_each(|case| check_some_on(&mut lab(Precision::Tf32), case, TF32, SOME)));
}

#[test]
#[ignore = "long; CI runs it"]
fn all_operators_in_fp16() {
    on_cuda(|| all_cases().iter().for_each(|case| check_some_on(&mut lab(Precision::Fp16), case, FP16, SOME)));
}

#[test]
#[ignore = "long; CI runs it"]
fn all_operators_in_bf16() {
    // Many of the rounded values are equal, and at equal maxima there is no derivative.
    let cases: Vec<Case> = all_cases().into_iter().filter(|it| !matches!(it, Case::MaxPool2d { .. })).collect();
    let check = |case: &Case| Expected::of_rounded(case, SOME, bfloat16).check_on(&mut lab(Precision::Bf16), BF16);
    on_cuda(|| cases.iter().for_each(check));
}

#[test]
fn all_operators_match_pytorch() {
    on_cuda(|| assert!(pytorch::check_all(&mut lab(Precision::Fp32), FP32) >= 50));
}

#[test]
fn fused_epilogues_match_separate_operators() {
    on_cuda(|| {
        epilogue::check_epilogues(&mut lab(Precision::Fp32), FP32);
        epilogue::check_epilogues(&mut lab(Precision::Fp16), FP16);
        for algorithm in [Algorithm::Direct, Algorithm::Gemm, Algorithm::Implicit] {
            epilogue::check_residuals(&mut lab_by(Precision::Fp32, algorithm), FP32);
        }
        epilogue::check_residuals(&mut lab(Precision::Fp16), FP16);
        epilogue::check_ties(&mut lab(Precision::Fp32), false);
        epilogue::check_ties(&mut lab(Precision::Fp16), false);
        epilogue::check_ties(&mut lab(Precision::Bf16), false);
        epilogue::check_nan(&mut lab(Precision::Fp32));
        epilogue::check_nan(&mut lab(Precision::Fp16));
        epilogue::check_nan(&mut lab(Precision::Bf16));
    });
}

#[test]
fn tf32_rounds_and_fp32_does_not() {
    on_cuda(|| {
        // Large enough for tensor cores. A product with the identity rounds nothing else.
        let (case, fine) = (linear(128, 128, 128), 1.0 + 1.0 / 4096.0);
        let identity = (0..128 * 128).map(|at| f32::from(u8::from(at % 129 == 0))).collect();
        let inputs = [vec![fine; 128 * 128], identity, vec![0.0; 128]];
        let all = |precision, to| case.run(&mut lab(precision), &inputs, &inputs[0]).output == vec![to; 128 * 128];
        assert!(all(Precision::Fp32, fine) && all(Precision::Tf32, 1.0), "TF32 is on in fp32, or off in tf32");
    });
}

#[test]
fn every_step_uses_its_learning_rate_and_the_last_rate_stays() {
    on_cuda(|| {
        let mut lab = lab(Precision::Fp32);
        let weight = Span::new(Region::Parameters, 0, 1);
        lab.backend.write(Span::new(Region::Gradients, 0, 1), &[1.0]).expect("write");
        lab.backend.write(weight, &[0.0]).expect("write");
        // First more rates than before, then fewer. They apply from the next step, without a wait.
        for (rates, steps) in [(&[1.0][..], 1), (&[10.0, 100.0], 3), (&[1000.0], 1)] {
            lab.backend.set_learning_rates(rates).expect("rates");
            (0..steps).for_each(|_| lab.run(optimizer_update(Optimizer::default(), 1)));
        }
        assert_eq!(lab.get(weight), [-1211.0]);
        assert!(lab.backend.set_learning_rates(&[]).is_err());
    });
}

/// The shapes of real networks are too large for central differences, so the CPU is the reference.
#[test]
fn large_shapes_agree_with_the_cpu() {
    on_cuda(|| {
        let cases = [
            conv([28, 28, 1], 16, [3, 1, 0], 5),
            conv([26, 26, 16], 32, [3, 1, 0], 3),
            conv([12, 12, 32], 64, [3, 1, 1], 2),
            conv([17, 15, 8], 24, [5, 2, 2], 3),
            linear(2048, 100, 7),
        ];
        for case in cases {
            let inputs = case.random_inputs();
            let outputs =
                super::reference::forward(&case, &inputs.iter().map(|v| vec![0.0; v.len()]).collect::<Vec<_>>());
            let d_output = random(outputs.len(), 9);
            let expected = case.run(&mut cpu(), &inputs, &d_output);
            let got = case.run(&mut lab(Precision::Fp32), &inputs, &d_output);
            compare_results(&case, &got, &expected);
        }
    });
}

/// Compares results within the fp32 error of sums of thousands of terms near 1.
fn compare_results(case: &Case, got: &Results, expected: &Results) {
    let tolerance = Tolerance { absolute: 5e-4, relative: 1e-5 };
    let pairs = got.gradients.iter().zip(&expected.gradients);
    for (got, expected) in pairs.chain([(&got.output, &expected.output)]) {
        let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
        compare(&format!("{case:?}"), got, &expected, tolerance);
    }
}

#[test]
fn a_small_workspace_gives_the_same_results() {
    on_cuda(|| {
        let case = conv([9, 8, 4], 6, [3, 2, 1], 4);
        let (inputs, d_output) = (case.random_inputs(), random(4 * 5 * 4 * 6, 3));
        let whole = case.run(&mut lab(Precision::Fp32), &inputs, &d_output);
        for workspace in [1, 800, 6000] {
            let sizes = super::lab::sizes_with_columns(4 * 5 * 4 * 36, 5 * 4 * 36);
            let backend = Cuda::new(Options { workspace, ..options(Precision::Fp32) }).expect("a CUDA device");
            let pieces = case.run(&mut Lab::with_sizes(backend, &sizes), &inputs, &d_output);
            compare_results(&case, &pieces, &whole);
        }
    });
}

#[test]
fn gathering_and_optimisers() {
    on_cuda(|| {
        gather::check_gather(&mut lab(Precision::Fp32), 1e-6);
        gather::check_gather(&mut lab(Precision::Fp16), 1e-3);
        gather::check_gather(&mut lab(Precision::Bf16), 1e-2);
        gather::check_streaming(&mut lab(Precision::Fp32));
        views::check_views(&mut lab(Precision::Fp32), |value| value);
        views::check_views(&mut lab(Precision::Fp16), half);
        views::check_views(&mut lab(Precision::Bf16), bfloat16);
        views::check_average(&mut lab(Precision::Fp32), |value| value);
        views::check_average(&mut lab(Precision::Fp16), half);
        views::check_average(&mut lab(Precision::Bf16), bfloat16);
        gather::check_augmentation(&mut lab(Precision::Fp32), |value| value);
        gather::check_augmentation(&mut lab(Precision::Fp16), half);
        gather::check_augmentation(&mut lab(Precision::Bf16), bfloat16);
        for precision in [Precision::Fp32, Precision::Tf32, Precision::Fp16, Precision::Bf16] {
            optimizer::check_rules(&mut lab(precision));
            optimizer::check_late_update(&mut lab(precision));
            optimizer::check_averaging(&mut lab(precision));
            optimizer::check_frozen(&mut lab(precision));
            optimizer::check_clipping_of_frozen(&mut lab(precision));
            accumulate::check_accumulation(&mut lab(precision));
            accumulate::check_overflow(&mut lab(precision));
        }
    });
}

#[test]
fn muons_directions_and_updates() {
    on_cuda(|| {
        // The iteration multiplies rounding errors of small singular values by up to 485.
        let coarse = Tolerance { absolute: 0.1, relative: 0.05 };
        for (precision, tolerance) in [
            (Precision::Fp32, muon::DIRECTION),
            (Precision::Tf32, coarse),
            (Precision::Fp16, coarse),
            (Precision::Bf16, coarse),
        ] {
            muon::check_directions(&mut lab(precision), tolerance);
            muon::check_normalised_direction(&mut lab(precision), tolerance);
            muon::check_muon_update(&mut lab(precision));
        }
        muon::check_overflowing_direction(&mut lab(Precision::Fp16));
    });
}

#[test]
fn losses_and_the_edge_cases_of_pooling() {
    on_cuda(|| {
        loss::check_loss(&mut lab(Precision::Fp32), FP32);
        loss::check_loss(&mut lab(Precision::Fp16), FP16);
        loss::check_confident(&mut lab(Precision::Fp32));
        pool::check_edge_cases(&mut lab(Precision::Fp32));
        pool::check_edge_cases(&mut lab(Precision::Fp16));
        pool::check_edge_cases(&mut lab(Precision::Bf16));
        loss::check_bias(&mut lab(Precision::Fp32), FP32);
    });
}

#[test]
fn batch_normalisation() {
    on_cuda(|| {
        norm::check_statistics(&mut lab(Precision::Fp32), FP32);
        norm::check_statistics(&mut lab(Precision::Fp16), FP16);
        norm::check_in_place(&mut lab(Precision::Fp32));
        norm::check_in_place(&mut lab(Precision::Fp16));
        norm::check_in_place(&mut lab(Precision::Bf16));
        norm::check_running(&mut lab(Precision::Fp32), FP32);
        norm::check_running(&mut lab(Precision::Fp16), FP16);
        norm::check_pytorch(&mut lab(Precision::Fp32), FP32);
    });
}

#[test]
fn metrics_and_step_losses() {
    on_cuda(|| {
        let (mut device, mut host) = (lab(Precision::Fp32), cpu());
        let start = Metrics { loss_sum: 2.5, correct: 3, samples: 7, steps: 2, first_bad_step: None };
        device.backend.log_steps(3).expect("log");
        host.backend.log_steps(3).expect("log");
        let run = |logits: &[f32], labels: &[u32], device: &mut Lab<Cuda>, host: &mut Lab<_>| {
            run_loss(logits, labels, device);
            run_loss(logits, labels, host);
        };
        device.backend.set_metrics(start).expect("metrics");
        host.backend.set_metrics(start).expect("metrics");
        run(&random(12, 0), &[0, 2, 1], &mut device, &mut host);
        run(&random(12, 1), &[3, 3, 3], &mut device, &mut host);
        let (a, b) =
            (device.backend.take_step_losses().expect("losses"), host.backend.take_step_losses().expect("losses"));
        assert_eq!(a.len(), 2);
        let flat = |losses: &[StepLoss]| losses.iter().flat_map(|l| [l.loss, l.accuracy]).collect::<Vec<f32>>();
        let expected: Vec<f64> = flat(&b).into_iter().map(f64::from).collect();
        compare("step losses", &flat(&a), &expected, FP32);
        run(&[f32::NAN, 1.0, 0.0, 0.0], &[1], &mut device, &mut host);
        let (a, b) = (device.backend.read_metrics().expect("read"), host.backend.read_metrics().expect("read"));
        assert_eq!(
            (a.correct, a.samples, a.steps, a.first_bad_step),
            (b.correct, b.samples, b.steps, b.first_bad_step)
        );
        assert_eq!(a.first_bad_step, Some(4));
    });
}

#[test]
fn metrics_of_a_running_epoch_are_read_without_waiting() {
    on_cuda(|| {
        let mut lab = lab(Precision::Fp32);
        lab.backend.set_metrics(Metrics::default()).expect("metrics");
        assert_eq!(lab.backend.peek_metrics(), None, "no copy was requested yet");
        run_loss(&random(8, 0), &[0, 1], &mut lab);
        let mut seen = None;
        for _ in 0..100 {
            lab.backend.synchronize().expect("synchronised");
            std::thread::sleep(std::time::Duration::from_millis(20));
            seen = lab.backend.peek_metrics().or(seen);
            if seen.is_some_and(|metrics| metrics.samples == 2) {
                break;
            }
        }
        assert_eq!(seen, Some(lab.backend.read_metrics().expect("metrics")));
        lab.backend.set_metrics(Metrics::default()).expect("metrics");
        assert_eq!(lab.backend.peek_metrics(), None, "the pending copy belongs to the previous epoch");
    });
}

fn run_loss<B: Backend>(logits: &[f32], labels: &[u32], lab: &mut Lab<B>) {
    let span = lab.put(Region::Arena, logits);
    lab.backend.set_labels(labels).expect("labels");
    let d_span = lab.empty(Region::Arena, logits.len());
    let (classes, gradient) = (logits.len() / labels.len(), Some(LossGradient::new(d_span)));
    lab.run(SoftmaxCrossEntropy { classes, logits: span, gradient });
}

#[test]
fn fp16_skips_a_step_that_overflows_and_halves_the_loss_scale() {
    on_cuda(|| {
        let mut lab = lab(Precision::Fp16);
        let span = |region| Span::new(region, 0, 64);
        lab.backend.write(span(Region::Parameters), &[1.0; 64]).expect("write");
        lab.backend.set_learning_rates(&[0.5]).expect("rate");
        lab.backend.set_loss_scale(LossScale { scale: 1024.0, good_steps: 0, skipped_steps: 0 }).expect("scale");
        let scale = |lab: &mut Lab<Cuda>| lab.backend.loss_scale().expect("scale").expect("fp16 has one");
        lab.backend.write(span(Region::Gradients), &[f32::INFINITY; 64]).expect("write");
        lab.run(optimizer_update(Optimizer::default(), 64));
        assert_eq!(lab.get(span(Region::Parameters)), [1.0; 64], "the step was not skipped");
        assert_eq!(scale(&mut lab), LossScale { scale: 512.0, good_steps: 0, skipped_steps: 1 });
        lab.backend.write(span(Region::Gradients), &[512.0; 64]).expect("write");
        lab.run(optimizer_update(Optimizer::default(), 64));
        assert_eq!(lab.get(span(Region::Parameters)), [0.5; 64], "the gradient was not unscaled");
        assert_eq!(scale(&mut lab), LossScale { scale: 512.0, good_steps: 1, skipped_steps: 1 });
        let last = LossScale { scale: 512.0, good_steps: 1999, skipped_steps: 1 };
        lab.backend.set_loss_scale(last).expect("scale");
        lab.run(optimizer_update(Optimizer::default(), 64));
        assert_eq!(scale(&mut lab), LossScale { scale: 1024.0, good_steps: 0, skipped_steps: 1 });
    });
}

#[test]
fn embedded_kernels_are_ptx_for_their_target() {
    let embedded = cnn_cuda::cuda::embedded_kernels();
    if embedded.is_empty() {
        return skip(Need::Nvrtc, "the program was built without NVRTC, so its kernels are compiled at run time");
    }
    for kernels in embedded {
        let (stem, storage, target) = (kernels.module, kernels.storage, kernels.target);
        let ptx = kernels.ptx().expect("the PTX inflates");
        assert!(ptx.contains(&format!(".target sm_{target}")), "{stem}_{storage} is not for sm_{target}");
        assert!(ptx.contains(".visible .entry ") && ptx.contains(&format!("_{storage}(")), "{stem}_{storage}");
    }
}

#[test]
fn batches_are_mixed_as_by_torchvision() {
    on_cuda(|| {
        mix::check_images(&mut lab(Precision::Fp32), Tolerance { absolute: 1e-12, relative: 0.0 });
        mix::check_images(&mut lab(Precision::Fp16), FP16);
        mix::check_order(&mut lab(Precision::Fp32));
        for (precision, tolerance) in [(Precision::Fp32, FP32), (Precision::Fp16, FP16), (Precision::Bf16, BF16)] {
            mix::check_losses(&mut lab(precision), tolerance);
            mix::check_sizes(&mut lab(precision), tolerance);
        }
    });
}

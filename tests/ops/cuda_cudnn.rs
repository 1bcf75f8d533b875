//! Convolutions by cuDNN: compared with the CPU in every direction and precision, if there are engines that it must not
//! use, and if it is missing, too old or fails.

use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::ops::{Algorithm, Backend, Precision};

use super::case::conv;
use super::cuda::{ALL_PRECISIONS, FP16, bfloat16, lab_by, options};
use super::cuda_implicit::check_usual_epilogues;
use super::lab::Lab;
use super::{Expected, SOME, check_some_on, norm_epilogue};
use crate::support::cuda::{has_cudnn, on_cuda};
use crate::support::emulator::on_emulator;

const DIRECTIONS: [&str; 3] = ["conv2d_forward", "conv2d_backward_weight", "conv2d_backward_input"];

/// Whether a backend has chosen cuDNN, by direction.
fn chosen(backend: &Cuda) -> [bool; 3] {
    let choices = backend.choices();
    DIRECTIONS.map(|direction| {
        let is_it = |site: &str| site.starts_with(direction);
        choices.iter().any(|it| is_it(&it.site) && it.candidate.algorithm == Algorithm::Cudnn)
    })
}

fn fastest(precision: Precision) -> Options {
    Options { algorithm: None, ..options(precision) }
}

/// Of the engines that the emulated cuDNN proposes first, one is not deterministic, and the others are far off or need
/// more workspace than there is.
#[test]
fn convolutions_by_cudnn() {
    on_cuda(|| {
        if !has_cudnn() {
            return;
        }
        for (precision, tolerance) in ALL_PRECISIONS {
            let mut lab = lab_by(precision, Algorithm::Cudnn);
            for case in super::conv::cases() {
                let round = if precision == Precision::Bf16 { bfloat16 } else { |value| value };
                Expected::of_rounded(&case, SOME, round).check_on(&mut lab, tolerance);
            }
            assert_eq!(chosen(&lab.backend), [true; 3], "{precision}");
            check_usual_epilogues(&mut lab, tolerance);
            norm_epilogue::check_forward(&mut lab);
            norm_epilogue::check_input_gradients(&mut lab, false);
        }
    });
}

#[test]
fn cudnn_rounds_to_tf32_only_in_tf32() {
    on_emulator(&[], || {
        // Large enough for tensor cores. A product with the identity rounds nothing else.
        let (case, fine) = (conv([8, 16, 128], 128, [1, 1, 0], 1), 1.0 + 1.0 / 4096.0);
        let identity = (0..128 * 128).map(|at| f32::from(u8::from(at % 129 == 0))).collect();
        let inputs = [vec![fine; 128 * 128], identity, vec![0.0; 128]];
        for (precision, expected) in [(Precision::Fp32, fine), (Precision::Tf32, 1.0)] {
            let got = case.run(&mut lab_by(precision, Algorithm::Cudnn), &inputs, &inputs[0]).output;
            assert_eq!(got, vec![expected; 128 * 128], "{precision}");
        }
    });
}

/// If cuDNN has no engine, or fails, the fastest of the others is chosen, and they replace it if it was asked for.
#[test]
fn cudnn_without_an_engine_is_replaced() {
    for (variable, status) in [
        ("CUDA_EMULATOR_CUDNN_PLAN", "3000"),
        ("CUDA_EMULATOR_CUDNN_PLAN", "4004"),
        ("CUDA_EMULATOR_CUDNN_EXECUTE", "5000"),
        ("CUDA_EMULATOR_CUDNN_CREATE", "1001"),
    ] {
        // A device with few tiles, so that trying all algorithms is quick.
        on_emulator(&[(variable, status), ("CUDA_EMULATOR_CC", "7.5"), ("XDG_CACHE_HOME", "/dev/null")], || {
            let requested = Options { algorithm: Some(Algorithm::Cudnn), ..options(Precision::Fp16) };
            let asked = std::env::var("CUDA_EMULATOR_CUDNN_PLAN").is_ok();
            let options = if asked { requested } else { fastest(Precision::Fp16) };
            let mut lab = Lab::new(Cuda::new(options).expect("a CUDA device"));
            check_some_on(&mut lab, &conv([6, 5, 8], 16, [3, 1, 1], 3), FP16, SOME);
            assert_eq!(chosen(&lab.backend), [false; 3]);
        });
    }
}

/// A resumed run uses cuDNN where it was used before.
#[test]
fn a_recorded_choice_of_cudnn_is_used_again() {
    on_emulator(&[("XDG_CACHE_HOME", "/dev/null")], || {
        let case = conv([6, 5, 8], 16, [3, 1, 1], 3).grouped(2, 1);
        let mut lab = lab_by(Precision::Fp16, Algorithm::Cudnn);
        check_some_on(&mut lab, &case, FP16, SOME);
        let recorded = lab.backend.choices().into_iter().map(|it| (it.site, it.candidate.to_string())).collect();
        let mut again = Lab::new(Cuda::new(Options { recorded, ..fastest(Precision::Fp16) }).expect("a CUDA device"));
        check_some_on(&mut again, &case, FP16, SOME);
        assert_eq!(chosen(&again.backend), [true; 3]);
    });
}

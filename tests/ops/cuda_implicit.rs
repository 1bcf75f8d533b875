//! Implicit GEMMs on CUDA: every direction on shapes that are tiled differently, epilogues, every precision, and a
//! device without the newer tensor cores.

use cnn_cuda::cuda::{self, Cuda};
use cnn_cuda::ops::{Algorithm, Backend, Precision};

use super::case::{Case, conv, linear};
use super::cuda::{ALL_PRECISIONS, FP16, TF32, bfloat16, has_kernel, lab_by, lab_by_tile};
use super::lab::Lab;
use super::{Expected, FP32, SOME, Tolerance, check_some_on, epilogue, norm_epilogue};
use crate::support::cuda::on_cuda;
use crate::support::emulator::on_emulator;

/// Shapes that implicit GEMMs tile differently: full and partial tiles of every size, vectors and single elements, one
/// pixel, uneven splits along the inner dimension, and so many splits that they are added in groups.
pub fn implicit_cases() -> Vec<Case> {
    let more = [
        conv([6, 5, 8], 16, [3, 1, 1], 3),
        conv([5, 6, 8], 40, [3, 2, 1], 2),
        conv([4, 4, 16], 72, [2, 1, 0], 1),
        conv([9, 9, 2], 3, [3, 3, 2], 3),
        linear(72, 40, 40),
        linear(8, 136, 3),
        linear(72, 40, 5),
        linear(300, 8, 1),
        conv([20, 20, 8], 16, [3, 1, 1], 3),
        linear(2100, 8, 3),
    ];
    [super::conv::cases(), super::linear::cases(), more.to_vec()].concat()
}

/// Shapes for every tile: with and without vectors, a stride, full and partial tiles, multiples of 64 channels, and few.
pub fn tile_cases() -> [Case; 7] {
    [
        conv([6, 5, 64], 64, [3, 1, 1], 2),
        conv([4, 5, 128], 72, [3, 1, 0], 1),
        conv([14, 13, 3], 16, [5, 2, 2], 2),
        conv([6, 5, 8], 40, [3, 1, 1], 3),
        conv([5, 6, 8], 40, [3, 2, 1], 2),
        conv([9, 9, 2], 3, [3, 3, 2], 3),
        linear(72, 264, 40),
    ]
}

fn check_implicit(precision: Precision, tolerance: Tolerance) {
    implicit_cases()
        .iter()
        .for_each(|case| check_some_on(&mut lab_by(precision, Algorithm::Implicit), case, tolerance, SOME));
}

#[test]
fn implicit_products_in_fp32() {
    on_cuda(|| check_implicit(Precision::Fp32, FP32));
}

#[test]
#[ignore = "long; CI runs it"]
fn implicit_products_in_tf32() {
    on_cuda(|| check_implicit(Precision::Tf32, TF32));
}

#[test]
#[ignore = "long; CI runs it"]
fn implicit_products_in_fp16() {
    on_cuda(|| check_implicit(Precision::Fp16, FP16));
}

/// Checks the epilogues of the products that a tile has kernels for.
pub fn check_epilogues_of(lab: &mut Lab<Cuda>, tile: &str, tolerance: Tolerance) {
    if has_kernel("forward", tile) {
        norm_epilogue::check_forward(lab);
    }
    if has_kernel("backward_input", tile) {
        norm_epilogue::check_input_gradients(lab, false);
    }
    // Pooled results are stored by the kernels of the forward pass.
    if ["forward", "backward_input"].iter().any(|product| has_kernel(product, tile)) {
        check_usual_epilogues(lab, tolerance);
    }
}

/// Checks activations, pooling and bias gradients after products. Rounded to bf16, so many results become zero or equal
/// that other maxima are right too; there, whole numbers are checked.
pub fn check_usual_epilogues(lab: &mut Lab<Cuda>, tolerance: Tolerance) {
    if lab.backend.info().precision == Precision::Bf16 {
        epilogue::check_ties(lab, false);
        epilogue::check_nan(lab);
    } else {
        epilogue::check_epilogues(lab, tolerance);
    }
}

#[test]
#[ignore = "long; CI runs it"]
fn implicit_products_with_norm_epilogues() {
    on_cuda(|| {
        for (precision, _) in ALL_PRECISIONS {
            let lab = &mut lab_by(precision, Algorithm::Implicit);
            norm_epilogue::check_forward(lab);
            norm_epilogue::check_input_gradients(lab, precision.is_16_bit());
        }
    });
}

#[test]
#[ignore = "long; CI runs it"]
fn every_tile_of_implicit_products() {
    on_cuda(|| {
        let cases = tile_cases();
        let all_expected = cases.each_ref().map(|case| Expected::new(case, SOME));
        let rounded = cases.each_ref().map(|case| Expected::of_rounded(case, SOME, bfloat16));
        for (precision, tolerance) in ALL_PRECISIONS {
            for tile in cuda::tiles(precision, 90) {
                let mut lab = lab_by_tile(precision, tile);
                let mut is_used = false;
                for expected in if precision == Precision::Bf16 { &rounded } else { &all_expected } {
                    expected.check_on(&mut lab, tolerance);
                    is_used |= lab.backend.choices().iter().any(|choice| choice.candidate.tile == Some(tile));
                }
                check_epilogues_of(&mut lab, tile, tolerance);
                assert!(is_used, "no product of these shapes can be computed with tile {tile}");
            }
        }
    });
}

#[test]
fn implicit_products_with_epilogues() {
    on_cuda(|| {
        for (precision, tolerance) in ALL_PRECISIONS {
            check_usual_epilogues(&mut lab_by(precision, Algorithm::Implicit), tolerance);
        }
        epilogue::check_ties(&mut lab_by(Precision::Fp32, Algorithm::Implicit), false);
        epilogue::check_nan(&mut lab_by(Precision::Fp32, Algorithm::Implicit));
    });
}

/// A device without TF32 computes tf32 products in fp32, as cuBLAS does, and fp16 products with the older instruction.
#[test]
#[ignore = "long; CI runs it"]
fn implicit_products_on_an_older_device() {
    let older = [("CUDA_EMULATOR_CC", "7.5")];
    on_emulator(&older, || {
        for (precision, tolerance) in [(Precision::Tf32, FP32), (Precision::Fp16, FP16)] {
            check_implicit(precision, tolerance);
            epilogue::check_epilogues(&mut lab_by(precision, Algorithm::Implicit), tolerance);
            let lab = &mut lab_by(precision, Algorithm::Implicit);
            norm_epilogue::check_forward(lab);
            norm_epilogue::check_input_gradients(lab, false);
        }
    });
}

//! The operators in bf16 on the CPU, with every instruction set, compared with f64 on the same rounded values.

use cnn_cuda::cpu::{Cpu, Instructions};
use cnn_cuda::ops::{Activation, Backend, Conv2d, Conv2dForward, Precision, Region};
use cnn_cuda::shape::{Shape, Window};

use super::case::{Case, conv, linear};
use super::cuda::{BF16, all_cases, bfloat16};
use super::lab::{Lab, random};
use super::{
    Expected, SOME, accumulate, augment, cpu, epilogue, gather, mix, muon, norm, optimizer, pool, reference, views,
};

fn labs() -> impl Iterator<Item = Lab<Cpu>> {
    Instructions::available().map(lab)
}

fn lab(set: Instructions) -> Lab<Cpu> {
    Lab::new(Cpu::with_options(Some(2), set, Precision::Bf16).expect("an available set"))
}

#[test]
fn all_operators() {
    // Many of the rounded values are equal, and at equal maxima there is no derivative.
    let cases: Vec<Case> = all_cases().into_iter().filter(|it| !matches!(it, Case::MaxPool2d { .. })).collect();
    assert!(cases.len() > 100, "{} cases", cases.len());
    for case in &cases {
        let expected = Expected::of_rounded(case, SOME, bfloat16);
        labs().for_each(|mut lab| expected.check_on(&mut lab, BF16));
    }
}

/// Sums of products are of f32, so results differ from those of fp32 on the same values by the rounding of each result.
#[test]
fn results_are_those_of_fp32_rounded() {
    for case in [
        conv([12, 12, 16], 32, [3, 1, 1], 3),
        conv([9, 8, 3], 24, [5, 2, 2], 2),
        conv([8, 8, 64], 48, [1, 1, 0], 2),
        conv([8, 8, 8], 8, [3, 1, 1], 2).grouped(2, 1),
        linear(200, 50, 3),
        linear(200, 50, 9),
    ] {
        let inputs: Vec<Vec<f32>> =
            case.random_inputs().into_iter().map(|values| values.into_iter().map(bfloat16).collect()).collect();
        let zeros: Vec<Vec<f64>> = inputs.iter().map(|values| vec![0.0; values.len()]).collect();
        let len = reference::forward(&case, &zeros).len();
        let d_output: Vec<f32> = random(len, 9).into_iter().map(bfloat16).collect();
        let exact = case.run(&mut cpu(), &inputs, &d_output);
        for mut lab in labs() {
            let rounded = case.run(&mut lab, &inputs, &d_output);
            let pairs = rounded.gradients.iter().zip(&exact.gradients);
            for (got, expected) in pairs.chain([(&rounded.output, &exact.output)]) {
                let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
                for (got, expected) in got.iter().zip(expected) {
                    // Half a unit in the last of 8 digits, and the error of the f32 sums.
                    let error = (got - expected).abs();
                    assert!(error <= expected.abs() / 256.0 + 3e-6 * largest, "{got} is not {expected}: {case:?}");
                }
            }
        }
    }
}

#[test]
fn values_are_rounded_to_the_nearest_and_of_two_to_the_even_one() {
    let values: Vec<f32> = (0..1 << 16)
        .flat_map(|high: u32| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(high << 16 | low)))
        .collect();
    for mut lab in labs() {
        for values in values.chunks(1 << 17) {
            lab.clear();
            let stored = lab.put(Region::Arena, values);
            check_rounded(values, &lab.get(stored));
        }
        // A convolution by Winograd of zeros, whose outputs are the bias. Their first pixel is compared.
        let op = Conv2d::new(Shape::new(3, 3, 16), 2048, Window { kernel: 3, stride: 1, padding: 1 });
        let biases: Vec<f32> = values.iter().step_by(7).copied().filter(|value| *value != 0.0).collect();
        lab.clear();
        let input = lab.put(Region::Arena, &[0.0; 9 * 16]);
        let weight = lab.put(Region::Parameters, &vec![0.0; op.weight_len()]);
        let output = lab.empty(Region::Arena, 9 * 2048);
        let bias = lab.empty(Region::Parameters, 2048);
        for values in biases.chunks_exact(2048) {
            lab.backend.write(bias, values).expect("write");
            let bias = Some(bias);
            lab.run(Conv2dForward {
                op,
                activation: Activation::Identity,
                input,
                weight,
                bias,
                output,
                residual: None,
                pool: None,
                statistics: None,
            });
            check_rounded(values, &lab.get(output.first(2048)));
        }
    }
}

fn check_rounded(values: &[f32], rounded: &[f32]) {
    for (value, rounded) in values.iter().zip(rounded) {
        let expected = half::bf16::from_f32(*value).to_f32();
        let same = rounded.to_bits() == expected.to_bits() || (value.is_nan() && rounded.is_nan());
        assert!(same, "{value} became {rounded}");
    }
}

#[test]
fn epilogues_pooling_and_normalisation() {
    for mut lab in labs() {
        epilogue::check_gradient_epilogues(&mut lab, BF16);
        lab.clear();
        epilogue::check_residuals(&mut lab, BF16);
        lab.clear();
        epilogue::check_ties(&mut lab, true);
        lab.clear();
        epilogue::check_nan(&mut lab);
        lab.clear();
        pool::check_edge_cases(&mut lab);
        lab.clear();
        norm::check_in_place(&mut lab);
    }
}

#[test]
fn gathering_mixing_and_optimisers() {
    let lab = || lab(Instructions::widest());
    gather::check_gather(&mut lab(), 1e-2);
    gather::check_streaming(&mut lab());
    gather::check_augmentation(&mut lab(), bfloat16);
    augment::check_crops(&mut lab());
    mix::check_images(&mut lab(), BF16);
    mix::check_losses(&mut lab(), BF16);
    mix::check_sizes(&mut lab(), BF16);
    mix::check_order(&mut lab());
    views::check_views(&mut lab(), bfloat16);
    views::check_average(&mut lab(), bfloat16);
    optimizer::check_rules(&mut lab());
    optimizer::check_late_update(&mut lab());
    optimizer::check_averaging(&mut lab());
    optimizer::check_frozen(&mut lab());
    accumulate::check_accumulation(&mut lab());
    muon::check_muon_update(&mut lab());
}

//! Activations as separate operators.

use cnn_cuda::ops::Activation;

use super::case::Case;
use super::{check_op, cpu};

/// Lengths that are not multiples of a vector.
pub fn cases() -> Vec<Case> {
    let ops = [Activation::Relu, Activation::LeakyRelu { slope: 0.25 }, Activation::Identity, Activation::Tanh];
    ops.iter().flat_map(|&op| [1, 7, 257].map(|len| Case::Activation { op, len })).collect()
}

#[test]
fn activations_forward_and_backward() {
    cases().into_iter().for_each(check_op);
}

#[test]
fn relu_passes_nan_and_has_no_gradient_at_zero() {
    let case = Case::Activation { op: Activation::Relu, len: 3 };
    let results = case.run(&mut cpu(), &[vec![f32::NAN, 0.0, -0.0]], &[1.0; 3]);
    assert!(results.output[0].is_nan());
    assert_eq!(results.gradients[0][1..], [0.0, 0.0]);
}

#[test]
fn long_activations_are_split_correctly() {
    let (op, len) = (Activation::LeakyRelu { slope: 0.5 }, 100_003);
    let input = super::lab::random(len, 0);
    let results = Case::Activation { op, len }.run(&mut cpu(), std::slice::from_ref(&input), &vec![1.0; len]);
    let expected: Vec<f32> = input.iter().map(|&x| if x > 0.0 { x } else { 0.5 * x }).collect();
    assert_eq!(results.output, expected);
}

#[test]
fn tanh_matches_f64() {
    for step in -200_000..=200_000_i32 {
        let x = f64::from(step) * 5e-5;
        let error = f64::from(Activation::Tanh.apply(x as f32)) - f64::from(x as f32).tanh();
        assert!(error.abs() <= 5e-7, "tanh {x} is off by {error}");
    }
    let apply = |x: f32| Activation::Tanh.apply(x);
    assert!(apply(f32::NAN).is_nan());
    assert!(apply(1e30) <= 1.0 && apply(f32::INFINITY) > 0.999_999 && apply(f32::NEG_INFINITY) >= -1.0);
    // Small values keep their precision and their sign.
    assert!((apply(-1e-20) / -1e-20 - 1.0).abs() < 1e-6 && apply(-0.0).is_sign_negative());
}

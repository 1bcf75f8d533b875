//! GELU, scaling, square and square root as separate operators.

use cnn_cuda::ops::{Function, Pointwise};
use cnn_cuda::shape::Shape;

use super::case::Case;
use super::{Tolerance, check_op, compare, cpu, reference};

/// Lengths that are not multiples of a vector.
pub fn cases() -> Vec<Case> {
    let functions = [Function::Gelu, Function::Scale { factor: -0.375 }, Function::Square, Function::SquareRoot];
    functions.iter().flat_map(|&function| [1, 7, 257].map(|len| case(function, len))).collect()
}

fn case(function: Function, len: usize) -> Case {
    Case::Pointwise { op: Pointwise { input: Shape::flat(len), function } }
}

#[test]
fn pointwise_functions_forward_and_backward() {
    cases().into_iter().for_each(check_op);
}

/// `torch.nn.functional.gelu` and its gradient in float64, with PyTorch 2.15.
#[test]
fn gelu_is_that_of_pytorch() {
    let x = [-4.0, -2.0, -0.75, -1e-3, 0.0, 0.5, 1.0, 3.0, 8.0];
    let expected = [
        [-0.000_126_684_967, -0.000_503_649_661],
        [-0.045_500_263_896, -0.085_231_801_078],
        [-0.169_970_514_283, 0.000_774_278_261],
        [-0.000_499_601_058, 0.499_202_115_705],
        [0.0, 0.5],
        [0.345_731_230_637, 0.867_495_124_656],
        [0.841_344_746_069, 1.083_315_470_588],
        [2.995_950_305_905, 1.011_945_647_204],
        [8.0, 1.0],
    ];
    let results = case(Function::Gelu, x.len()).run(&mut cpu(), &[x.to_vec()], &[1.0; 9]);
    let tolerance = Tolerance { absolute: 1e-6, relative: 1e-6 };
    compare("gelu", &results.output, &expected.map(|[y, _]| y), tolerance);
    compare("gradient", &results.gradients[0], &expected.map(|[_, gradient]| gradient), tolerance);
}

/// The approximations of erf and exp hold over their whole range, and beyond it the limits are exact.
#[test]
fn gelu_matches_f64() {
    let x: Vec<f32> = (-50_000..=50_000).map(|step| step as f32 * 1e-4).collect();
    let results = case(Function::Gelu, x.len()).run(&mut cpu(), std::slice::from_ref(&x), &vec![1.0; x.len()]);
    let tolerance = Tolerance { absolute: 1.5e-6, relative: 5e-7 };
    let distribution = |x: f64| (1.0 + reference::erf(x / 2.0_f64.sqrt())) / 2.0;
    let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    compare("gelu", &results.output, &exact.iter().map(|&x| x * distribution(x)).collect::<Vec<_>>(), tolerance);
    let gradient = |&x: &f64| distribution(x) + x * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    compare("gradient", &results.gradients[0], &exact.iter().map(gradient).collect::<Vec<_>>(), tolerance);
    let far = [f32::NAN, 1e30, -1e18, 20.0, -20.0];
    let results = case(Function::Gelu, far.len()).run(&mut cpu(), &[far.to_vec()], &[1.0; 5]);
    assert!(results.output[0].is_nan() && results.gradients[0][0].is_nan());
    assert_eq!(results.output[1..], [1e30, 0.0, 20.0, 0.0]);
    assert_eq!(results.gradients[0][1..], [1.0, 0.0, 1.0, 0.0]);
}

/// The slope of the root is infinite at 0, where its gradient is 0, as that of a norm in PyTorch.
#[test]
fn the_root_of_zero_has_no_gradient_and_negative_numbers_have_no_root() {
    let results = case(Function::SquareRoot, 3).run(&mut cpu(), &[vec![0.0, -1.0, 4.0]], &[3.0; 3]);
    assert_eq!((results.output[0], results.output[2]), (0.0, 2.0));
    assert_eq!((results.gradients[0][0], results.gradients[0][2]), (0.0, 0.75));
    assert!(results.output[1].is_nan() && results.gradients[0][1].is_nan());
}

#[test]
fn a_long_input_is_split_correctly() {
    let input = super::lab::random(100_003, 0);
    let results = case(Function::Scale { factor: 0.5 }, input.len()).run(
        &mut cpu(),
        std::slice::from_ref(&input),
        &vec![1.0; input.len()],
    );
    assert_eq!(results.output, input.iter().map(|x| 0.5 * x).collect::<Vec<_>>());
    assert!(results.gradients[0].iter().all(|&gradient| gradient == 0.5));
}

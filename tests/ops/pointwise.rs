//! GELU and scaling as separate operators.

use cnn_cuda::ops::{Function, Pointwise};
use cnn_cuda::shape::Shape;

use super::case::Case;
use super::{Tolerance, check_op, compare, cpu, reference};

/// Lengths that are not multiples of a vector.
pub fn cases() -> Vec<Case> {
    let functions = [Function::Gelu, Function::Scale { factor: -0.375 }];
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
        [-0.00012668496733247991, -0.0005036496612264215],
        [-0.04550026389635842, -0.08523180107819692],
        [-0.16997051428265111, 0.0007742782607648158],
        [-0.000499601057786089, 0.4992021157051586],
        [0.0, 0.5],
        [0.34573123063700656, 0.8674951246561629],
        [0.841344746068543, 1.0833154705876864],
        [2.99595030590511, 1.011945647204184],
        [7.999999999999995, 1.0000000000000397],
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
    let results = case(Function::Gelu, x.len()).run(&mut cpu(), &[x.clone()], &vec![1.0; x.len()]);
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

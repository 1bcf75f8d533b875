//! The linear layer on many shapes.

use cnn_cuda::ops::Activation;

use super::case::{Case, linear};
use super::check_op;

/// Shapes that every backend is checked on.
pub fn cases() -> Vec<Case> {
    vec![
        linear(7, 5, 3),
        linear(1, 1, 1),
        linear(13, 1, 2),
        linear(1, 9, 4),
        linear(40, 17, 5),
        linear(12, 10, 3).with(Activation::Relu),
        linear(12, 10, 3).with(Activation::LeakyRelu { slope: 0.125 }),
        linear(9, 7, 5).with(Activation::Tanh),
    ]
}

#[test]
fn linear_forward_and_backward() {
    cases().into_iter().for_each(check_op);
}

#[test]
fn wide_layers_and_large_batches_are_split_correctly() {
    check_op(linear(3, 300, 2));
    check_op(linear(2, 3, 270));
}

//! Pooling: overlap, padding, remainders, ties and NaN.

use cnn_cuda::ops::{Backend, MaxPool2dForward, Region};

use super::case::{Case, adaptive_avg_pool, avg_pool, max_pool};
use super::lab::Lab;
use super::{check_op, cpu};

/// Shapes that every backend is checked on.
pub fn cases() -> Vec<Case> {
    let windows = [[2, 2, 0], [3, 2, 1], [3, 1, 0], [2, 3, 0], [3, 3, 1], [1, 1, 0]];
    let inputs = [[6, 6, 4], [7, 5, 3], [4, 9, 1]];
    let both = |input, window| [max_pool(input, window, 2), avg_pool(input, window, 2)];
    let mut cases: Vec<Case> =
        inputs.iter().flat_map(|&input| windows.iter().flat_map(move |&window| both(input, window))).collect();
    let rounded = |window| [[7, 5, 3], [6, 8, 4]].into_iter().flat_map(move |input| both(input, window));
    cases.extend(
        [[2, 2, 0], [3, 2, 0], [3, 2, 1], [2, 3, 0], [3, 3, 1]].into_iter().flat_map(rounded).map(Case::with_ceil_mode),
    );
    let adaptive =
        [([7, 5, 3], [3, 2]), ([6, 6, 4], [1, 1]), ([4, 9, 5], [4, 3]), ([2, 3, 2], [5, 4]), ([8, 8, 4], [6, 6])];
    cases.extend(adaptive.map(|(input, output)| adaptive_avg_pool(input, output, 2)));
    // Whole vectors of halves.
    cases.extend([avg_pool([5, 4, 16], [3, 2, 1], 1), adaptive_avg_pool([5, 4, 16], [3, 2], 1)]);
    cases
}

#[test]
fn the_last_window_must_start_inside_the_input() {
    let sizes = |case: Case| match case.with_ceil_mode() {
        Case::MaxPool2d { op, .. } => op.output().map(|shape| (shape.height, shape.width)).expect("fits"),
        other => panic!("{other:?}"),
    };
    // GoogLeNet's first pooling, and windows that would start in the padding after the input.
    assert_eq!(sizes(max_pool([112, 111, 1], [3, 2, 0], 1)), (56, 55));
    assert_eq!(sizes(max_pool([4, 5, 1], [2, 3, 1], 1)), (2, 2));
    assert_eq!(sizes(max_pool([2, 2, 1], [2, 3, 1], 1)), (1, 1));
}

#[test]
fn pooling_forward_and_backward() {
    cases().into_iter().for_each(check_op);
}

/// Checks ties, padding and NaN with numbers that every storage type represents exactly.
pub fn check_edge_cases<B: Backend>(lab: &mut Lab<B>) {
    let tied = max_pool([2, 2, 1], [2, 2, 0], 1).run(lab, &[vec![3.0, 5.0, 5.0, 5.0]], &[1.0]);
    assert_eq!(tied.gradients[0], [0.0, 1.0, 0.0, 0.0], "the first of equal maxima gets the gradient");
    let padded = max_pool([2, 2, 1], [3, 2, 1], 1).run(lab, &[vec![-3.0, -1.0, -2.0, -4.0]], &[1.0]);
    assert_eq!(padded.output, [-1.0], "padding is never the maximum");
    assert_eq!(padded.gradients[0], [0.0, 1.0, 0.0, 0.0]);
    for at in 0..4 {
        let mut input = vec![1.0, 2.0, 3.0, 4.0];
        input[at] = f32::NAN;
        let output = max_pool([2, 2, 1], [2, 2, 0], 1).run(lab, &[input], &[1.0]).output;
        assert!(output[0].is_nan(), "NaN is not hidden");
    }
}

#[test]
fn ties_padding_and_nan() {
    check_edge_cases(&mut cpu());
}

#[test]
fn max_pooling_works_without_argmax() {
    let Case::MaxPool2d { op, batch } = max_pool([4, 4, 3], [2, 2, 0], 2) else { unreachable!() };
    let mut lab = cpu();
    let values = super::lab::random(batch * op.input.len(), 0);
    let (input, output) = (lab.put(Region::Arena, &values), lab.empty(Region::Arena, 24));
    lab.run(MaxPool2dForward { op, input, output, argmax: None });
    let with = max_pool([4, 4, 3], [2, 2, 0], 2).run(&mut cpu(), &[values], &[1.0; 24]);
    assert_eq!(lab.get(output), with.output);
}

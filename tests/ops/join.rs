//! Addition, concatenation and gradient sums.

use cnn_cuda::ops::{JoinOps, Region, Subsample};
use cnn_cuda::shape::Shape;

use super::case::Case;
use super::lab::random;
use super::{check_op, cpu};

/// Shapes that every backend is checked on.
pub fn cases() -> Vec<Case> {
    vec![
        Case::Add { len: 1 },
        Case::Add { len: 777 },
        Case::Concat { pixels: 6, channels: vec![3, 5], batch: 2 },
        Case::Concat { pixels: 1, channels: vec![4, 1, 8], batch: 3 },
        Case::Subsample { op: Subsample { input: Shape::new(5, 4, 3), stride: 2, channels: 6 }, batch: 2 },
        Case::Subsample { op: Subsample { input: Shape::new(3, 7, 4), stride: 3, channels: 4 }, batch: 1 },
    ]
}

#[test]
fn joins_forward_and_backward() {
    cases().into_iter().for_each(check_op);
}

#[test]
fn an_activation_added_to_itself_is_doubled() {
    let mut lab = cpu();
    let values = random(50, 0);
    let (a, output) = (lab.put(Region::Arena, &values), lab.empty(Region::Arena, 50));
    lab.backend.add_forward(50, a, a, output).expect("add");
    assert_eq!(lab.get(output), values.iter().map(|v| v + v).collect::<Vec<_>>());
}

#[test]
fn accumulate_adds_to_what_is_there() {
    let mut lab = cpu();
    let (a, b) = (random(70_001, 0), random(70_001, 1));
    let (term, sum) = (lab.put(Region::Arena, &a), lab.put(Region::Arena, &b));
    lab.backend.accumulate(a.len(), term, sum).expect("accumulate");
    assert_eq!(lab.get(sum), a.iter().zip(&b).map(|(a, b)| b + a).collect::<Vec<_>>());
}

//! Addition, concatenation and gradient sums.

use cnn_cuda::ops::{Add, Backend, ChannelCopy, CopyChannels, Region, Subsample};
use cnn_cuda::shape::Shape;

use super::case::{Case, Results};
use super::lab::{Lab, random};
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
    lab.run(Add { a, b: a, output });
    assert_eq!(lab.get(output), values.iter().map(|v| v + v).collect::<Vec<_>>());
}

#[test]
fn a_sum_may_overwrite_a_term() {
    let mut lab = cpu();
    let (a, b) = (random(70_001, 0), random(70_001, 1));
    let (term, sum) = (lab.put(Region::Arena, &a), lab.put(Region::Arena, &b));
    lab.run(Add { a: sum, b: term, output: sum });
    assert_eq!(lab.get(sum), a.iter().zip(&b).map(|(a, b)| b + a).collect::<Vec<_>>());
}

/// Concatenates the inputs and splits the gradient.
pub fn run_concat<B: Backend>(
    lab: &mut Lab<B>,
    pixels: usize,
    channels: &[usize],
    inputs: &[Vec<f32>],
    d_output: &[f32],
) -> Results {
    let total: usize = channels.iter().sum();
    let output = lab.empty(Region::Arena, d_output.len());
    let d_output = lab.put(Region::Arena, d_output);
    let (mut offset, mut gradients) = (0, Vec::new());
    for (values, &own) in inputs.iter().zip(channels) {
        let input = lab.put(Region::Arena, values);
        let d_input = lab.empty(Region::Arena, values.len());
        let concat = ChannelCopy {
            pixels,
            channels: own,
            source_channels: own,
            source_offset: 0,
            target_channels: total,
            target_offset: offset,
        };
        let split = ChannelCopy {
            source_channels: total,
            source_offset: offset,
            target_channels: own,
            target_offset: 0,
            ..concat
        };
        lab.run(CopyChannels { op: concat, input, output });
        lab.run(CopyChannels { op: split, input: d_output, output: d_input });
        gradients.push(lab.get(d_input));
        offset += own;
    }
    Results { output: lab.get(output), gradients }
}

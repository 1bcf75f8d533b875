//! Convolution on many shapes.

use cnn_cuda::cpu::{Cpu, Instructions};
use cnn_cuda::ops::{Activation, Backend, Conv2d, Conv2dForward, MemorySizes, Optimizer, Region, Span, TrainingState};
use cnn_cuda::shape::{Shape, Window};

use super::case::{Case, conv};
use super::lab::{Lab, optimizer_update, random, sizes_with_columns};
use super::{Tolerance, check_op, compare, cpu, cpu_with};

/// Shapes that every backend is checked on.
pub fn cases() -> Vec<Case> {
    vec![
        conv([7, 5, 3], 4, [3, 1, 0], 2),
        conv([7, 5, 1], 4, [3, 1, 0], 3),
        conv([6, 6, 4], 8, [3, 1, 1], 2),
        conv([9, 7, 2], 3, [3, 2, 1], 2),
        conv([8, 8, 3], 5, [3, 2, 0], 2), // the last row and column are not covered
        conv([5, 5, 4], 6, [1, 1, 0], 2),
        conv([5, 5, 4], 6, [1, 2, 0], 2), // pointwise except for its stride
        conv([4, 4, 4], 3, [1, 1, 1], 1), // pointwise except for its padding
        conv([1, 1, 1], 1, [1, 1, 0], 1),
        conv([1, 1, 5], 2, [3, 1, 1], 2), // one pixel surrounded by padding
        conv([2, 2, 3], 2, [5, 1, 2], 2), // the kernel is larger than the input
        conv([5, 5, 2], 7, [5, 1, 0], 2), // the kernel is as large as the input
        conv([11, 3, 2], 3, [2, 3, 1], 3),
        conv([6, 5, 16], 17, [3, 1, 1], 5),
        conv([8, 7, 1], 32, [3, 1, 1], 2),
        conv([7, 6, 1], 33, [3, 1, 0], 1),
        conv([9, 8, 1], 6, [5, 2, 2], 3).with(Activation::Relu),
        conv([6, 6, 1], 16, [3, 2, 1], 1).with(Activation::LeakyRelu { slope: 0.125 }),
        // Winograd: full and partial tiles, with and without padding
        conv([6, 6, 16], 16, [3, 1, 0], 3).with(Activation::Relu),
        conv([5, 7, 16], 32, [3, 1, 0], 2),
        conv([6, 6, 32], 48, [3, 1, 0], 1), // one tile
        conv([4, 5, 32], 16, [3, 1, 1], 2).with(Activation::LeakyRelu { slope: 0.125 }),
        conv([7, 4, 16], 16, [3, 1, 2], 2).with(Activation::Relu),
        conv([3, 3, 16], 16, [3, 1, 1], 2),
        conv([5, 5, 16], 16, [3, 1, 0], 1), // fewer outputs than half a tile, but not fewer inputs
        conv([4, 9, 16], 16, [3, 1, 0], 2), // too small for a tile
        conv([3, 3, 16], 16, [3, 1, 3], 1), // more padding than the kernel reaches over
        conv([6, 7, 3], 4, [3, 1, 1], 2).with(Activation::Relu),
        conv([6, 7, 4], 5, [3, 2, 1], 2).with(Activation::LeakyRelu { slope: 0.125 }),
        conv([6, 5, 4], 8, [3, 1, 0], 2).with(Activation::Tanh),
        // Grouped, depthwise and dilated convolutions
        conv([6, 5, 6], 4, [3, 1, 1], 2).grouped(2, 1).with(Activation::Relu),
        conv([5, 6, 4], 4, [3, 2, 1], 2).grouped(4, 1),
        conv([4, 4, 3], 6, [1, 1, 0], 2).grouped(3, 1).with(Activation::Tanh),
        conv([7, 8, 3], 4, [3, 1, 2], 2).grouped(1, 2),
        conv([8, 7, 16], 16, [3, 1, 0], 1).grouped(1, 3),
        conv([9, 8, 4], 6, [3, 2, 3], 3).grouped(2, 2).with(Activation::LeakyRelu { slope: 0.125 }),
    ]
}

#[test]
fn conv2d_forward_and_backward() {
    cases().into_iter().for_each(check_op);
}

#[test]
fn a_large_batch_is_split_correctly() {
    check_op(conv([4, 9, 1], 2, [3, 1, 1], 67));
}

#[test]
fn a_window_that_does_not_fit_is_an_error() {
    let window = Window { kernel: 5, stride: 1, padding: 1 };
    let error = Conv2d::new(Shape::new(2, 9, 1), 1, window).output().unwrap_err();
    assert!(format!("{error:#}").contains("does not fit"), "{error:#}");
}

#[test]
fn channels_that_are_not_divisible_by_the_groups_are_an_error() {
    let window = Window { kernel: 3, stride: 1, padding: 1 };
    for (channels, out_channels, groups) in [(6, 8, 4), (8, 6, 4), (8, 8, 0)] {
        let op = Conv2d { groups, ..Conv2d::new(Shape::new(5, 5, channels), out_channels, window) };
        assert!(format!("{:#}", op.output().unwrap_err()).contains("groups"), "{op:?}");
    }
    let op = Conv2d { dilation: 3, ..Conv2d::new(Shape::new(4, 4, 1), 1, window) };
    assert!(op.output().is_err(), "a window of 7 does not fit 6");
}

#[test]
fn the_forward_pass_uses_weights_that_were_written_or_updated() {
    // The direct and the Winograd algorithm
    for channels in [3, 16] {
        let window = Window { kernel: 3, stride: 1, padding: 0 };
        let op = Conv2d::new(Shape::new(6, 6, channels), 16, window);
        let mut lab = cpu();
        let (first, second) = (random(op.weight_len(), 1), random(op.weight_len(), 2));
        let input = lab.put(Region::Arena, &random(op.input.len(), 0));
        let weight = lab.put(Region::Parameters, &first);
        let output = lab.empty(Region::Arena, op.output().expect("fits").len());
        let activation = Activation::Identity;
        let (bias, residual, pool, statistics) = (None, None, None, None);
        let with_parameters = Conv2dForward { op, activation, input, weight, bias, residual, output, pool, statistics };
        let forward = |lab: &mut Lab<Cpu>| {
            lab.run(with_parameters);
            lab.get(output)
        };
        let with_first = forward(&mut lab);
        assert_eq!(forward(&mut lab), with_first);
        lab.backend.write(weight, &second).expect("write");
        let with_second = forward(&mut lab);
        assert_ne!(with_second, with_first);
        // Weights in another region at the same offset do not affect the next pass.
        let elsewhere = Span { region: Region::Gradients, ..weight };
        lab.backend.write(elsewhere, &first).expect("write");
        lab.run(Conv2dForward { weight: elsewhere, ..with_parameters });
        assert_eq!(lab.get(output), with_first);
        assert_eq!(forward(&mut lab), with_second);
        lab.backend.set_learning_rates(&[1.0]).expect("set");
        lab.run(optimizer_update(Optimizer::default(), weight.offset + weight.len));
        let updated = forward(&mut lab);
        assert_ne!(updated, with_second);
        let weights = lab.get(weight);
        lab.backend.write(weight, &weights).expect("write");
        assert_eq!(forward(&mut lab), updated);
    }
}

/// The output, input gradient and weight gradient by their definitions, in f64.
fn by_definition(op: &Conv2d, x: &[f32], weight: &[f32], d_y: &[f32]) -> [Vec<f64>; 3] {
    let (input, shape, Window { kernel, stride, padding }) = (op.input, op.output().expect("fits"), op.window);
    let (mut y, mut d_x, mut d_weight) = (vec![0.0; d_y.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
    for row in 0..d_y.len() / shape.channels {
        let (sample, oy, ox) = (row / shape.pixels(), row / shape.width % shape.height, row % shape.width);
        for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
            let (iy, ix) = (oy * stride + ky, ox * stride + kx);
            if iy < padding || ix < padding || iy - padding >= input.height || ix - padding >= input.width {
                continue;
            }
            let at = ((sample * input.height + iy - padding) * input.width + ix - padding) * input.channels;
            for oc in 0..shape.channels {
                let tap = (oc * kernel * kernel + ky * kernel + kx) * input.channels;
                let gradient = f64::from(d_y[row * shape.channels + oc]);
                for c in 0..input.channels {
                    let (value, factor) = (f64::from(x[at + c]), f64::from(weight[tap + c]));
                    y[row * shape.channels + oc] += value * factor;
                    d_x[at + c] += gradient * factor;
                    d_weight[tap + c] += gradient * value;
                }
            }
        }
    }
    [y, d_x, d_weight]
}

/// Winograd's transforms round more than direct sums, which have a relative error of 4e-7 here if they are summed in order.
#[test]
fn winograd_is_nearly_as_exact_as_direct_sums() {
    let op = Conv2d::new(Shape::new(12, 12, 64), 64, Window { kernel: 3, stride: 1, padding: 1 });
    let case = conv([12, 12, 64], 64, [3, 1, 1], 4);
    let mut inputs = case.random_inputs();
    inputs[2].fill(0.0);
    let d_output = random(4 * op.output().expect("fits").len(), 9);
    let expected = by_definition(&op, &inputs[0], &inputs[1], &d_output);
    for set in Instructions::available() {
        let mut lab = cpu_with(set);
        let results = case.run(&mut lab, &inputs, &d_output);
        let got = [&results.output, &results.gradients[0], &results.gradients[1]];
        for ((what, got), expected) in ["output", "d_input", "d_weight"].into_iter().zip(got).zip(&expected) {
            let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
            let error = squares(&mut got.iter().zip(expected).map(|(&got, expected)| f64::from(got) - expected));
            let relative = (error / squares(&mut expected.iter().copied())).sqrt();
            println!("{}: {what}: relative error {relative:.2e}", set.name());
            assert!(relative < 1.3e-6, "{}: {what}: {relative:e}", set.name());
        }
    }
}

/// The last layers of deep networks have so many weights that their work is divided differently.
#[test]
fn many_channels_on_few_pixels() {
    let size = 3 << 20;
    let sizes = MemorySizes { arena: size, parameters: size, gradients: size, ..sizes_with_columns(0, 0) };
    let cases = [
        ([3, 3, 400], 336, [3, 1, 1], 9),
        ([9, 6, 272], 272, [3, 1, 1], 7), // more tiles than are multiplied at once
        ([5, 4, 272], 496, [3, 2, 1], 3),
    ];
    for (input, out_channels, window, batch) in cases {
        let case = conv(input, out_channels, window, batch);
        let Case::Conv2d { op, .. } = case else { unreachable!() };
        let mut inputs = case.random_inputs();
        inputs[2].fill(0.0);
        let d_output = random(batch * op.output().expect("fits").len(), 9);
        let mut lab = Lab::with_sizes(Cpu::new(Some(2)).expect("two threads"), &sizes);
        let results = case.run(&mut lab, &inputs, &d_output);
        let [y, d_x, d_weight] = by_definition(&op, &inputs[0], &inputs[1], &d_output);
        // Sums of thousands of products of values near 1.
        let tolerance = Tolerance { absolute: 2e-4, relative: 1e-4 };
        compare("output", &results.output, &y, tolerance);
        compare("d_input", &results.gradients[0], &d_x, tolerance);
        compare("d_weight", &results.gradients[1], &d_weight, tolerance);
    }
}

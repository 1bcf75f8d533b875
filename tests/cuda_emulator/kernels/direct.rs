//! The direct convolution of one input channel, and its weight gradient in one launch.

use super::super::device::{Device, blocks, launch};
use super::{geometry, halves, in_both_orders, whole};

in_both_orders!(convolves, sums_weight_gradients_in_one_launch, convolves_halves);

/// Samples, height, width, output channels; kernel, stride, padding.
type Case = ([usize; 4], [usize; 3]);
const CASES: &[Case] = &[
    ([2, 9, 8, 16], [3, 1, 0]),
    ([1, 7, 5, 1], [3, 2, 1]),
    ([3, 6, 6, 5], [5, 1, 2]),
    ([1, 5, 5, 32], [5, 1, 0]),
    ([2, 11, 4, 6], [3, 3, 1]),
];

fn outputs(([_, height, width, _], [kernel, stride, padding]): Case) -> (usize, usize) {
    let along = |size| (size + 2 * padding - kernel) / stride + 1;
    (along(height), along(width))
}

/// The inputs under each output pixel's taps, zero in the padding.
fn windows(case: Case, input: &[f32]) -> Vec<Vec<f32>> {
    let ([samples, height, width, _], [kernel, stride, padding]) = case;
    let (out_height, out_width) = outputs(case);
    let value = |sample: usize, y: usize, x: usize| {
        let inside = y >= padding && x >= padding && y - padding < height && x - padding < width;
        if inside { input[(sample * height + y - padding) * width + x - padding] } else { 0.0 }
    };
    let window = |pixel: usize| {
        let (x, y) = (pixel % out_width * stride, pixel / out_width % out_height * stride);
        let sample = pixel / out_width / out_height;
        (0..kernel * kernel).map(|tap| value(sample, y + tap / kernel, x + tap % kernel)).collect()
    };
    (0..samples * out_height * out_width).map(window).collect()
}

fn op(case: Case) -> [u32; 11] {
    let ([_, height, width, channels], window) = case;
    geometry([height, width, 1, channels], outputs(case), window)
}

fn convolved(case: Case, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let taps = case.1[0] * case.1[0];
    let pixel = |window: &Vec<f32>| -> Vec<f32> {
        let sum = |filter: &[f32]| filter.iter().zip(window).map(|(w, x)| w * x).sum::<f32>();
        weight.chunks(taps).zip(bias).map(|(filter, bias)| (sum(filter) + bias).max(0.0)).collect()
    };
    windows(case, input).iter().flat_map(pixel).collect()
}

fn convolves(device: Device) {
    for &case in CASES {
        let ([samples, height, width, channels], [kernel, ..]) = case;
        let input = whole(samples * height * width, 1);
        let (weight, bias) = (whole(channels * kernel * kernel, 2), whole(channels, 3));
        let expected = convolved(case, &input, &weight, &bias);
        let (x, w, b) = (device.upload(&input), device.upload(&weight), device.upload(&bias));
        let (y, pixels) = (device.poisoned::<f32>(expected.len()), (expected.len() / channels) as u64);
        let name = format!("direct_forward_{kernel}_f32");
        launch!(device, &name, blocks(2), &x, &w, &b, &y, &pixels, &op(case), &0f32).unwrap();
        assert_eq!(device.download(&y), expected, "{case:?}");
    }
}

fn sums_weight_gradients_in_one_launch(device: Device) {
    for (&case, per_block) in CASES.iter().flat_map(|case| [(case, 7u32), (case, 1000)]) {
        let ([samples, height, width, channels], [kernel, ..]) = case;
        let taps = kernel * kernel;
        let input = whole(samples * height * width, 1);
        let windows = windows(case, &input);
        let d_output = whole(windows.len() * channels, 4);
        let mut expected = vec![0.0; channels * taps];
        for (window, d_output) in windows.iter().zip(d_output.chunks(channels)) {
            for (at, sum) in expected.iter_mut().enumerate() {
                *sum += d_output[at / taps] * window[at % taps];
            }
        }
        let (x, d_y, block_counters) = (device.upload(&input), device.upload(&d_output), device.upload(&[0u32]));
        let pixels = windows.len() as u64;
        let lanes = (channels as u32).div_ceil(if kernel == 3 { 4 } else { 1 }).next_power_of_two();
        let grid = blocks((windows.len() as u32).div_ceil(per_block));
        let partial = device.poisoned::<f32>(grid.grid_dim.0 as usize * expected.len().next_multiple_of(4));
        let (op, name) = (op(case), format!("direct_backward_weight_{kernel}_f32"));
        for _ in 0..2 {
            let d_weight = device.poisoned::<f32>(expected.len());
            let (w, m, v, n, k, l) = (&d_weight, &partial, &block_counters, &pixels, &lanes, &per_block);
            launch!(device, &name, grid, &x, &d_y, w, m, v, n, &op, k, l, &0u32).unwrap();
            assert_eq!(device.download(w), expected, "{case:?} {per_block}");
            assert_eq!(device.download(v), [0]);
        }
    }
}

fn convolves_halves(device: Device) {
    for &case in CASES {
        let ([samples, height, width, channels], [kernel, ..]) = case;
        let input = whole(samples * height * width, 1);
        let weight: Vec<f32> = whole(channels * kernel * kernel, 2).iter().map(|w| w / 16.0).collect();
        let bias = whole(channels, 3);
        let expected = convolved(case, &input, &weight, &bias);
        let (x, w, b) = (device.upload(&halves(&input)), device.upload(&halves(&weight)), device.upload(&bias));
        let y = device.upload(&halves(&vec![f32::NAN; expected.len()]));
        let pixels = (expected.len() / channels) as u64;
        let name = format!("direct_forward_{kernel}_f16");
        launch!(device, &name, blocks(2), &x, &w, &b, &y, &pixels, &op(case), &0f32).unwrap();
        assert_eq!(device.download(&y), halves(&expected), "{case:?}");
    }
}

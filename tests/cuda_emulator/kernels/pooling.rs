//! Max and average pooling with overlap, padding, ties and NaN.

use super::super::device::{Device, blocks, launch};
use super::{in_both_orders, whole};

in_both_orders!(takes_maxima, returns_gradients_to_maxima, averages, a_nan_wins);

/// Three values only: most windows hold their maximum more than once.
fn with_ties(case: Case, seed: usize) -> Vec<f32> {
    whole(case.0.iter().product(), seed).iter().map(|value| value.rem_euclid(3.0)).collect()
}

/// Samples, height, width, channels; kernel, stride, padding.
type Case = ([usize; 4], [usize; 3]);
const CASES: &[Case] =
    &[([2, 6, 6, 3], [2, 2, 0]), ([1, 7, 5, 4], [3, 2, 1]), ([3, 5, 5, 1], [3, 1, 0]), ([1, 4, 8, 2], [2, 3, 1])];

fn outputs(([_, height, width, _], [kernel, stride, padding]): Case) -> (usize, usize) {
    let along = |size| (size + 2 * padding - kernel) / stride + 1;
    (along(height), along(width))
}

fn parameters(case: Case) -> [u32; 8] {
    let ([_, height, width, channels], [kernel, stride, padding]) = case;
    let (out_height, out_width) = outputs(case);
    [height, width, channels, out_height, out_width, kernel, stride, padding].map(|value| value as u32)
}

/// The inputs of each output's window, in scan order, as (flat index, index within the plane).
fn windows(case: Case) -> Vec<Vec<(usize, usize)>> {
    let ([samples, height, width, channels], [kernel, stride, padding]) = case;
    let (out_height, out_width) = outputs(case);
    let mut windows = Vec::new();
    for i in 0..samples * out_height * out_width * channels {
        let (channel, x) = (i % channels, i / channels % out_width);
        let (y, sample) = (i / channels / out_width % out_height, i / channels / out_width / out_height);
        let mut window = Vec::new();
        for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
            let (py, px) = (y * stride + ky, x * stride + kx);
            if py >= padding && px >= padding && py - padding < height && px - padding < width {
                let plane = (py - padding) * width + px - padding;
                window.push(((sample * height * width + plane) * channels + channel, plane));
            }
        }
        windows.push(window);
    }
    windows
}

/// The values and their places in the plane of each window's first maximum.
fn maxima(case: Case, input: &[f32]) -> (Vec<f32>, Vec<u32>) {
    let first_largest = |window: Vec<(usize, usize)>| {
        let largest = window.iter().map(|&(at, _)| input[at]).fold(f32::NEG_INFINITY, f32::max);
        let (_, plane) = window.into_iter().find(|&(at, _)| input[at] == largest).unwrap();
        (largest, plane as u32)
    };
    windows(case).into_iter().map(first_largest).unzip()
}

fn takes_maxima(device: Device) {
    for &case in CASES {
        let input = with_ties(case, 1);
        let (values, places) = maxima(case, &input);
        let (source, target) = (device.upload(&input), device.poisoned::<f32>(values.len()));
        let argmax = device.poisoned::<u32>(values.len());
        let (count, none) = (values.len() as u64, 0u64);
        let [a, b, c, d, e, f, g, h] = parameters(case);
        let name = "max_pool_forward_f32";
        launch!(device, name, blocks(2), &source, &target, &argmax, &count, &a, &b, &c, &d, &e, &f, &g, &h).unwrap();
        assert_eq!((device.download(&target), device.download(&argmax)), (values.clone(), places));
        let target = device.poisoned::<f32>(values.len());
        launch!(device, name, blocks(2), &source, &target, &none, &count, &a, &b, &c, &d, &e, &f, &g, &h).unwrap();
        assert_eq!(device.download(&target), values);
    }
}

fn returns_gradients_to_maxima(device: Device) {
    for &case in CASES {
        let input = with_ties(case, 2);
        let (values, places) = maxima(case, &input);
        let d_output = whole(values.len(), 3);
        let mut expected = vec![0.0; input.len()];
        for ((window, &place), d) in windows(case).iter().zip(&places).zip(&d_output) {
            let (at, _) = window.iter().find(|&&(_, plane)| plane as u32 == place).unwrap();
            expected[*at] += d;
        }
        let (source, argmax) = (device.upload(&d_output), device.upload(&places));
        let (target, count) = (device.poisoned::<f32>(input.len()), input.len() as u64);
        let [a, b, c, d, e, f, g, h] = parameters(case);
        let name = "max_pool_backward_f32";
        launch!(device, name, blocks(2), &source, &argmax, &target, &count, &a, &b, &c, &d, &e, &f, &g, &h).unwrap();
        assert_eq!(device.download(&target), expected);
    }
}

fn averages(device: Device) {
    for &case in CASES {
        let input = whole(case.0.iter().product(), 4);
        let area = (case.1[0] * case.1[0]) as f32;
        let means: Vec<f32> =
            windows(case).iter().map(|window| window.iter().map(|&(at, _)| input[at]).sum::<f32>() / area).collect();
        let [a, b, c, d, e, f, g, h] = parameters(case);
        let (source, target) = (device.upload(&input), device.poisoned::<f32>(means.len()));
        let count = means.len() as u64;
        let name = "avg_pool_forward_f32";
        launch!(device, name, blocks(2), &source, &target, &count, &a, &b, &c, &d, &e, &f, &g, &h).unwrap();
        assert_eq!(device.download(&target), means);

        let d_output = whole(means.len(), 5);
        let mut sums = vec![0.0; input.len()];
        for (window, d) in windows(case).iter().zip(&d_output) {
            window.iter().for_each(|&(at, _)| sums[at] += d);
        }
        let expected: Vec<f32> = sums.iter().map(|sum| sum / area).collect();
        let (source, target, count) =
            (device.upload(&d_output), device.poisoned::<f32>(input.len()), input.len() as u64);
        let name = "avg_pool_backward_f32";
        launch!(device, name, blocks(2), &source, &target, &count, &a, &b, &c, &d, &e, &f, &g, &h).unwrap();
        assert_eq!(device.download(&target), expected);
    }
}

fn a_nan_wins(device: Device) {
    let source = device.upload(&[1.0, f32::NAN, 3.0, 2.0f32]);
    let (target, argmax) = (device.poisoned::<f32>(1), device.upload(&[9u32]));
    let [a, b, c, d, e, f, g, h] = parameters(([1, 2, 2, 1], [2, 2, 0]));
    let name = "max_pool_forward_f32";
    launch!(device, name, blocks(1), &source, &target, &argmax, &1u64, &a, &b, &c, &d, &e, &f, &g, &h).unwrap();
    assert!(device.download(&target)[0].is_nan());
    assert_eq!(device.download(&argmax), [1]);
}

//! Max and average pooling with overlap, padding, ties and NaN.

use super::super::device::{Device, Field, blocks, launch};
use super::{geometry, in_both_orders, whole};

in_both_orders!(takes_maxima, returns_gradients_to_maxima, averages, propagates_nan);

/// There are only three distinct values, so most windows hold their maximum more than once.
fn with_ties(case: Case, seed: usize) -> Vec<f32> {
    whole(case.0.iter().product(), seed).iter().map(|value| value.rem_euclid(3.0)).collect()
}

/// Samples, height, width, channels; kernel, stride, padding.
type Case = ([usize; 4], [usize; 3]);
const CASES: &[Case] = &[
    ([2, 6, 6, 3], [2, 2, 0]),
    ([1, 7, 5, 4], [3, 2, 1]),
    ([3, 5, 5, 1], [3, 1, 0]),
    ([1, 4, 8, 2], [2, 3, 1]),
    ([3, 6, 4, 12], [2, 2, 0]),
    ([1, 7, 6, 8], [2, 2, 0]),
    ([2, 24, 36, 8], [2, 2, 0]),
    ([1, 9, 6, 4], [3, 3, 0]),
];

fn outputs(([_, height, width, _], [kernel, stride, padding]): Case) -> (usize, usize) {
    let along = |size| (size + 2 * padding - kernel) / stride + 1;
    (along(height), along(width))
}

fn op(case: Case) -> [u32; 11] {
    let ([_, height, width, channels], window) = case;
    geometry([height, width, channels, channels], outputs(case), window)
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

/// Each window's maximum, and the index within the plane of its first occurrence.
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
        for (with_bias, slope) in [(false, 1.0f32), (true, 0.0), (true, 0.25)] {
            let input = with_ties(case, 1);
            let channels = case.0[3];
            let bias: Vec<f32> = (0..channels).map(|c| c as f32 - 1.5).collect();
            let ended = |(i, &x): (usize, &f32)| match with_bias {
                true => active(x + bias[i % channels], slope),
                false => x,
            };
            let (values, places) = maxima(case, &input.iter().enumerate().map(ended).collect::<Vec<_>>());
            let (source, count) = (device.upload(&input), values.len() as u64);
            let (added, none) = (device.upload(&bias), 0u64);
            let bias: &dyn Field = if with_bias { &added } else { &none };
            for (name, vector) in [("max_pool_forward_f32", 1), ("max_pool_forward_vec_f32", 4)] {
                if channels % vector != 0 {
                    continue;
                }
                let (target, argmax) = (device.poisoned::<f32>(values.len()), device.poisoned::<u32>(values.len()));
                let (x, y, m, n) = (&source, &target, &argmax, &count);
                launch!(device, name, blocks(2), x, bias, y, m, n, &op(case), &slope).unwrap();
                assert_eq!((device.download(y), device.download(m)), (values.clone(), places.clone()));
                let target = device.poisoned::<f32>(values.len());
                let (y, m) = (&target, &none);
                if !with_bias {
                    launch!(device, name, blocks(2), x, &none, y, m, n, &op(case), &slope).unwrap();
                    assert_eq!(device.download(y), values);
                }
            }
        }
    }
}

fn active(value: f32, slope: f32) -> f32 {
    if value > 0.0 { value } else { slope * value + 0.0 }
}

/// The kernels that support a case, with the number of elements in their vectors.
fn backward_kernels(case: Case) -> Vec<(&'static str, u32)> {
    let ([_, height, width, channels], [kernel, stride, padding]) = case;
    let mut kernels = vec![("max_pool_backward_f32", 1)];
    if channels % 4 == 0 {
        kernels.push(("max_pool_backward_vec_f32", 4));
        if kernel == stride && padding == 0 && height % kernel == 0 && width % kernel == 0 {
            kernels.push(("max_pool_backward_tiles_vec_f32", 4));
        }
    }
    kernels
}

fn returns_gradients_to_maxima(device: Device) {
    let mut tiled = 0;
    for (&case, slope) in CASES.iter().flat_map(|case| [1.0f32, 0.0, 0.25].map(|slope| (case, slope))) {
        let channels = case.0[3];
        let input = with_ties(case, 2);
        let (values, places) = maxima(case, &input);
        let (d_output, pooled) = (whole(values.len(), 3), whole(values.len(), 6));
        let masked = |i: usize| if slope == 1.0 || pooled[i] > 0.0 { d_output[i] } else { slope * d_output[i] };
        let (mut expected, mut sums) = (vec![0.0; input.len()], vec![0.0; channels]);
        for (i, (window, &place)) in windows(case).iter().zip(&places).enumerate() {
            let (at, _) = window.iter().find(|&&(_, plane)| plane as u32 == place).unwrap();
            expected[*at] += masked(i);
            sums[i % channels] += masked(i);
        }
        let (source, argmax, outputs) = (device.upload(&d_output), device.upload(&places), device.upload(&pooled));
        let block_counters = device.upload(&[0u32; 8]);
        let (op, all) = (op(case), channels as u32);
        for (name, vector) in backward_kernels(case) {
            let tiles = name.contains("tiles");
            tiled += usize::from(tiles);
            let rows = (if tiles { values.len() } else { input.len() } / channels) as u64;
            let least = if vector == 1 { 4 } else { 1 };
            let (lanes, mut config) = ((channels as u32 / vector).next_power_of_two().max(least), blocks(1));
            config.grid_dim.1 = 3;
            let partial = device.poisoned::<f32>(3 * (lanes * vector) as usize);
            let (target, d_bias) = (device.poisoned::<f32>(input.len()), device.poisoned::<f32>(channels));
            let (x, m, y, t, s, p) = (&source, &argmax, &outputs, &target, &d_bias, &partial);
            let (v, n, l) = (&block_counters, &rows, &slope);
            launch!(device, name, config, x, m, y, t, s, p, v, n, &all, &lanes, &op, l).unwrap();
            assert_eq!(device.download(t), expected, "{name} {case:?}");
            assert_eq!(device.download(s), sums, "{name} {case:?}");
            if slope == 1.0 {
                let (target, none) = (device.poisoned::<f32>(input.len()), 0u64);
                let (t, o) = (&target, &none);
                launch!(device, name, config, x, m, o, t, o, p, v, n, &all, &lanes, &op, l).unwrap();
                assert_eq!(device.download(t), expected, "{name} {case:?} without epilogue");
            }
        }
    }
    assert!(tiled >= 3, "too few cases run the tiled kernel");
}

fn averages(device: Device) {
    for (&case, (variant, vector)) in
        CASES.iter().flat_map(|case| [("", 1), ("_vec", 4)].map(|variant| (case, variant)))
    {
        if case.0[3] % vector != 0 {
            continue;
        }
        let input = whole(case.0.iter().product(), 4);
        let area = (case.1[0] * case.1[0]) as f32;
        let means: Vec<f32> =
            windows(case).iter().map(|window| window.iter().map(|&(at, _)| input[at]).sum::<f32>() / area).collect();
        let (source, target) = (device.upload(&input), device.poisoned::<f32>(means.len()));
        let (count, name) = (means.len() as u64, format!("avg_pool_forward{variant}_f32"));
        launch!(device, &name, blocks(2), &source, &target, &count, &op(case)).unwrap();
        assert_eq!(device.download(&target), means);

        let d_output = whole(means.len(), 5);
        let mut sums = vec![0.0; input.len()];
        for (window, d) in windows(case).iter().zip(&d_output) {
            window.iter().for_each(|&(at, _)| sums[at] += d / area);
        }
        let (source, target) = (device.upload(&d_output), device.poisoned::<f32>(input.len()));
        let (count, name) = (input.len() as u64, format!("avg_pool_backward{variant}_f32"));
        launch!(device, &name, blocks(2), &source, &target, &count, &op(case)).unwrap();
        assert_eq!(device.download(&target), sums);
    }
}

fn propagates_nan(device: Device) {
    let source = device.upload(&[1.0, f32::NAN, 3.0, 2.0f32]);
    let (target, argmax) = (device.poisoned::<f32>(1), device.upload(&[9u32]));
    let op = op(([1, 2, 2, 1], [2, 2, 0]));
    let name = "max_pool_forward_f32";
    let (x, y, m, none, slope) = (&source, &target, &argmax, 0u64, 0.0f32);
    launch!(device, name, blocks(1), x, &none, y, m, &1u64, &op, &slope).unwrap();
    assert!(device.download(&target)[0].is_nan());
    assert_eq!(device.download(&argmax), [1]);
}

//! Batch normalisation: statistics, normalisation and gradients, compared with f64, for vectors and single channels.

use cudarc::driver::LaunchConfig;
use half::f16;

use super::super::device::{Device, Field, launch};
use super::{halves, in_both_orders, whole};

in_both_orders!(computes_statistics, normalises, computes_gradients, passes_on_nan);

/// Threads of the passes that sum, and of the others.
const SUMS: u32 = 384;
const BLOCK: u32 = 256;

/// Rows, channels, elements per vector, vectors per block, and blocks that share the rows.
#[derive(Clone, Copy, Debug)]
struct Case(usize, usize, usize, u32, u32);

const CASES: &[Case] = &[
    Case(2, 3, 1, 4, 1),
    Case(1000, 5, 1, 8, 3),
    Case(311, 70, 1, 32, 2),
    Case(2, 8, 4, 2, 1),
    Case(4000, 4, 4, 1, 4),
    Case(1900, 24, 4, 8, 5),
    Case(700, 40, 4, 8, 2),
];

impl Case {
    fn grid(self, threads: u32) -> LaunchConfig {
        let Case(_, channels, vector, width, row_blocks) = self;
        let column_blocks = channels.div_ceil(vector * width as usize) as u32;
        LaunchConfig { grid_dim: (column_blocks, row_blocks, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
    }

    fn kernel(self, name: &str) -> String {
        format!("{name}{}_f32", if self.2 > 1 { "_vec" } else { "" })
    }

    /// Partial sums and block counters.
    fn scratch(self, device: &Device) -> (cudarc::driver::CudaSlice<f32>, cudarc::driver::CudaSlice<u32>) {
        let Case(_, _, vector, width, row_blocks) = self;
        let columns = self.grid(SUMS).grid_dim.0 as usize;
        let floats = 2 * vector * width as usize * row_blocks as usize * columns;
        (device.poisoned(floats), device.upload(&vec![0u32; columns]))
    }
}

/// Values around a mean that differs by channel.
fn inputs(Case(rows, channels, ..): Case) -> Vec<f32> {
    whole(rows * channels, 3).iter().enumerate().map(|(i, x)| x / 4.0 + 100.0 * (i % channels) as f32).collect()
}

/// Each channel's mean and variance.
fn moments(values: &[f32], channels: usize) -> Vec<(f64, f64)> {
    let rows = (values.len() / channels) as f64;
    let of = |c: usize| values.iter().skip(c).step_by(channels).map(|&x| f64::from(x));
    let mean = |c: usize| of(c).sum::<f64>() / rows;
    (0..channels).map(|c| (mean(c), of(c).map(|x| (x - mean(c)).powi(2)).sum::<f64>() / rows)).collect()
}

fn close(got: f32, wanted: f64, what: &str) {
    assert!((f64::from(got) - wanted).abs() <= 2e-5 * (1.0 + wanted.abs()), "{what}: {got} instead of {wanted}");
}

/// Runs twice with the same counters, which the last block must reset.
fn computes_statistics(device: Device) {
    for &case in CASES {
        let Case(rows, channels, _, width, _) = case;
        let values = inputs(case);
        let (input, running) = (device.upload(&values), device.upload(&vec![1.0f32; 2 * channels]));
        let (partial, block_counters) = case.scratch(&device);
        let (n, c, name) = (rows as u64, channels as u32, case.kernel("norm_statistics"));
        for times in 1..=2 {
            let saved = device.poisoned::<f32>(2 * channels);
            let (x, r, s, p, b) = (&input, &running, &saved, &partial, &block_counters);
            launch!(device, &name, case.grid(SUMS), x, r, s, p, b, &n, &c, &width, &0.5f32, &0.125f32).unwrap();
            let (saved, running) = (device.download(&saved), device.download(&running));
            for (channel, (mean, variance)) in moments(&values, channels).into_iter().enumerate() {
                close(saved[channel], mean, "mean");
                close(saved[channels + channel], 1.0 / (variance + 0.125).sqrt(), "inverse deviation");
                let moved = |batch: f64| (0..times).fold(1.0, |value, _| 0.5 * (value + batch));
                close(running[channel], moved(mean), "running mean");
                let unbiased = variance * rows as f64 / (rows - 1) as f64;
                close(running[channels + channel], moved(unbiased), "running variance");
            }
            assert!(device.download(&block_counters).iter().all(|&count| count == 0));
        }
    }
}

fn active(value: f64, slope: f64) -> f64 {
    if value > 0.0 { value } else { slope * value }
}

/// Weight, bias, means and inverse deviations that are exact in fp16, as are the results.
fn terms(channels: usize) -> [Vec<f32>; 3] {
    let weight = (0..channels).map(|c| 0.5 + (c % 3) as f32).collect();
    let bias = (0..channels).map(|c| (c % 5) as f32 - 2.0).collect();
    let means = (0..channels).map(|c| (c % 7) as f32 - 3.0);
    [weight, bias, means.chain((0..channels).map(|c| 1.0 + (c % 2) as f32)).collect()]
}

/// In fp32 and fp16, with and without a residual, with statistics of the batch and running ones.
fn normalises(device: Device) {
    for (&case, slope) in CASES.iter().flat_map(|case| [1.0f32, 0.0, 0.25].map(|slope| (case, slope))) {
        let Case(rows, channels, _, width, _) = case;
        let (values, added) = (whole(rows * channels, 1), whole(rows * channels, 2));
        let [weight, bias, saved] = terms(channels);
        let expected = |residual: bool, inverse: &dyn Fn(f32) -> f64| -> Vec<f32> {
            let value = |(i, &x): (usize, &f32)| {
                let c = i % channels;
                let scale = f64::from(weight[c]) * inverse(saved[channels + c]);
                let value = f64::from(x - saved[c]) * scale + f64::from(bias[c]);
                active(value + if residual { added[i].into() } else { 0.0 }, slope.into()) as f32
            };
            values.iter().enumerate().map(value).collect()
        };
        let [w, b, s] = [&weight, &bias, &saved].map(|terms| device.upload(terms));
        let (n, c, none, grid) = (rows as u64, channels as u32, 0u64, case.grid(BLOCK));
        for residual in [false, true] {
            let stem = case.kernel(if residual { "norm_forward_residual" } else { "norm_forward" });
            let (x, r, y) = (device.upload(&values), device.upload(&added), device.poisoned::<f32>(values.len()));
            let added: &dyn Field = if residual { &r } else { &none };
            launch!(device, &stem, grid, &x, &w, &b, &s, added, &y, &n, &c, &width, &-1.0f32, &slope).unwrap();
            assert_eq!(device.download(&y), expected(residual, &|inverse| inverse.into()), "{case:?}");
            launch!(device, &stem, grid, &x, &w, &b, &s, added, &x, &n, &c, &width, &0.5f32, &slope).unwrap();
            let wanted = expected(residual, &|variance| 1.0 / f64::from(variance + 0.5).sqrt());
            device.download(&x).into_iter().zip(wanted).for_each(|(got, wanted)| close(got, wanted.into(), "in place"));
        }
        if channels.is_multiple_of(8) || case.2 == 1 {
            let name = case.kernel("norm_forward").replace("f32", "f16");
            // A vector has twice as many halves.
            let width = if case.2 == 1 { width } else { width.div_ceil(2) };
            let (x, y) = (device.upload(&halves(&values)), device.poisoned::<f16>(values.len()));
            launch!(device, &name, grid, &x, &w, &b, &s, &none, &y, &n, &c, &width, &-1.0f32, &slope).unwrap();
            assert_eq!(device.download(&y), halves(&expected(false, &|inverse| inverse.into())), "{case:?}");
        }
    }
}

/// The sums, then the input's gradient. With a residual, the activation's derivative follows from the output.
fn computes_gradients(device: Device) {
    for (&case, slope) in CASES.iter().flat_map(|case| [1.0f32, 0.0, 0.25].map(|slope| (case, slope))) {
        let Case(rows, channels, _, width, _) = case;
        let (values, d_values) = (whole(rows * channels, 1), whole(rows * channels, 2));
        let output = whole(rows * channels, 7);
        let [weight, bias, saved] = terms(channels);
        let position =
            |i: usize| f64::from(values[i] - saved[i % channels]) * f64::from(saved[channels + i % channels]);
        for residual in [false, true] {
            let result = |i: usize| match residual {
                true => f64::from(output[i]),
                false => position(i) * f64::from(weight[i % channels]) + f64::from(bias[i % channels]),
            };
            let masked: Vec<f64> = (0..values.len())
                .map(|i| f64::from(d_values[i]) * if result(i) > 0.0 { 1.0 } else { f64::from(slope) })
                .collect();
            let mut sums = vec![[0.0; 2]; channels];
            masked.iter().enumerate().for_each(|(i, g)| {
                sums[i % channels][0] += g;
                sums[i % channels][1] += g * position(i);
            });
            let [w, b, s] = [&weight, &bias, &saved].map(|terms| device.upload(terms));
            let (x, y, d) = (device.upload(&values), device.upload(&output), device.upload(&d_values));
            let (d_weight, d_bias) = (device.poisoned::<f32>(channels), device.poisoned::<f32>(channels));
            let ((p, k), none) = (case.scratch(&device), 0u64);
            let (n, c, v, u) = (rows as u64, channels as u32, &d_weight, &d_bias);
            let y: &dyn Field = if residual { &y } else { &none };
            let name = case.kernel(if residual { "norm_backward_sums_residual" } else { "norm_backward_sums" });
            let (grid, p, k, n, c) = (case.grid(SUMS), &p, &k, &n, &c);
            launch!(device, &name, grid, &x, y, &w, &b, &s, &d, v, u, p, k, n, c, &width, &slope).unwrap();
            let rounding = rows as f64 * 2e-6;
            for (channel, sums) in sums.iter().enumerate() {
                let got = [device.download(u)[channel], device.download(v)[channel]];
                assert!(got.iter().zip(sums).all(|(&got, sum)| (f64::from(got) - sum).abs() <= rounding + 1e-4));
            }
            if residual {
                assert!(device.download(&d).iter().zip(&masked).all(|(&got, g)| f64::from(got) == *g), "{case:?}");
            }
            assert!(device.download(k).iter().all(|&count| count == 0));
            let (share, slope) = (1.0 / rows as f32, if residual { 1.0 } else { slope });
            let (grid, name, z) = (case.grid(BLOCK), case.kernel("norm_backward_input"), &d);
            launch!(device, &name, grid, &x, z, &w, &b, &s, v, u, z, n, c, &width, &-1.0f32, &share, &slope).unwrap();
            for (i, got) in device.download(&d).into_iter().enumerate() {
                let ([sum, product], channel) = (sums[i % channels], i % channels);
                let common = (sum + position(i) * product) / rows as f64;
                let scale = f64::from(weight[channel]) * f64::from(saved[channels + channel]);
                let wanted = scale * (masked[i] - common);
                assert!(
                    (f64::from(got) - wanted).abs() <= 1e-4 * (1.0 + wanted.abs() + common.abs()),
                    "{got} {wanted}"
                );
            }
        }
    }
}

/// ReLU returns +0 for −∞ and NaN for NaN, and the statistics of a channel with a NaN are NaN.
fn passes_on_nan(device: Device) {
    for case in [Case(3, 4, 1, 4, 1), Case(3, 4, 4, 1, 1)] {
        let mut values = whole(12, 1);
        (values[5], values[6]) = (f32::NAN, f32::NEG_INFINITY);
        let (input, output) = (device.upload(&values), device.poisoned::<f32>(12));
        let [one, zero] = [1.0f32, 0.0].map(|value| device.upload(&[value; 4]));
        let statistics = device.upload(&[0.0f32, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        let (n, c, w, grid, none) = (3u64, 4u32, case.3, case.grid(BLOCK), 0u64);
        let (x, y, s, name) = (&input, &output, &statistics, case.kernel("norm_forward"));
        launch!(device, &name, grid, x, &one, &zero, s, &none, y, &n, &c, &w, &-1.0f32, &0.0f32).unwrap();
        let got = device.download(y);
        assert!(got[5].is_nan() && got[6].to_bits() == 0 && got.iter().filter(|value| value.is_nan()).count() == 1);
        let (saved, running, (p, k)) = (device.poisoned::<f32>(8), device.upload(&[0.0f32; 8]), case.scratch(&device));
        let (r, s, name) = (&running, &saved, case.kernel("norm_statistics"));
        launch!(device, &name, case.grid(SUMS), x, r, s, &p, &k, &n, &c, &w, &0.5f32, &0.125f32).unwrap();
        let saved = device.download(s);
        assert_eq!([0, 1, 2, 3].map(|c| saved[c].is_nan()), [false, true, false, false]);
        assert!(saved[5].is_nan() && !saved[4].is_nan() && saved[6].is_nan());
    }
}

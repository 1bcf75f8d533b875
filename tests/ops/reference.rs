//! Every operator's forward pass in f64, written as simply as possible.

use cnn_cuda::ops::{Activation, AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Function, Layer, Linear, Lrn, Subsample};
use cnn_cuda::shape::{Shape, Window};

use super::case::Case;

/// The output of `case`.
pub fn forward(case: &Case, inputs: &[Vec<f64>]) -> Vec<f64> {
    match case {
        Case::Conv2d { op, activation, batch } => conv2d(op, *activation, *batch, inputs),
        Case::Linear { op, activation, batch } => linear(op, *activation, *batch, inputs),
        Case::BatchNorm2d { op, activation, batch, .. } => batch_norm(op, *activation, *batch, inputs),
        Case::MaxPool2d { op, batch } => {
            pool(op.input, op.output().expect("fits"), op.window, *batch, &inputs[0], |values, _| {
                values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            })
        }
        Case::AvgPool2d { op, batch } => {
            pool(op.input, op.output().expect("fits"), op.window, *batch, &inputs[0], |values, area| {
                values.iter().sum::<f64>() / area
            })
        }
        Case::AdaptiveAvgPool2d { op, batch } => adaptive_avg_pool(op, *batch, &inputs[0]),
        Case::Lrn { op, .. } => inputs[0].chunks_exact(op.input.channels).flat_map(|x| lrn(op, x)).collect(),
        Case::Pointwise { op } => inputs[0].iter().map(|&x| pointwise(op.function, x)).collect(),
        Case::Activation { op, .. } => inputs[0].iter().map(|&x| activate(*op, x)).collect(),
        Case::Subsample { op, batch } => subsample(op, *batch, &inputs[0]),
        Case::Add { .. } => inputs[0].iter().zip(&inputs[1]).map(|(a, b)| a + b).collect(),
        Case::Concat { pixels, channels, batch } => {
            let pixel = |p: usize| {
                let part = move |(values, &c): (&Vec<f64>, &usize)| values[p * c..(p + 1) * c].to_vec();
                inputs.iter().zip(channels).flat_map(part).collect::<Vec<_>>()
            };
            (0..batch * pixels).flat_map(pixel).collect()
        }
    }
}

fn activate(op: Activation, x: f64) -> f64 {
    match op {
        Activation::Tanh => x.tanh(),
        _ if x > 0.0 => x,
        _ => f64::from(op.code()) * x,
    }
}

fn pointwise(function: Function, x: f64) -> f64 {
    match function {
        Function::Gelu => x * (1.0 + erf(x / 2.0_f64.sqrt())) / 2.0,
        Function::Square => x * x,
        Function::SquareRoot => x.sqrt(),
        Function::Scale { factor } => f64::from(factor) * x,
    }
}

/// The error function by its Taylor series, within 1e-9 up to |x| = 4.
pub fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn conv2d(op: &Conv2d, activation: Activation, batch: usize, inputs: &[Vec<f64>]) -> Vec<f64> {
    let [x, weight, bias] = [&inputs[0], &inputs[1], &inputs[2]];
    let (shape, input, Window { kernel, stride, padding }) = (op.output().expect("fits"), op.input, op.window);
    let mut y = Vec::new();
    for n in 0..batch {
        for (oy, ox) in (0..shape.height).flat_map(|oy| (0..shape.width).map(move |ox| (oy, ox))) {
            for (oc, &bias) in bias.iter().enumerate() {
                let mut sum = bias;
                for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                    let (iy, ix) = (oy * stride + op.dilation * ky, ox * stride + op.dilation * kx);
                    if iy < padding || ix < padding || iy - padding >= input.height || ix - padding >= input.width {
                        continue;
                    }
                    let channels = input.channels / op.groups;
                    let group = oc / (op.out_channels / op.groups);
                    let pixel = (n * input.height + iy - padding) * input.width + ix - padding;
                    let at = pixel * input.channels + group * channels;
                    let w = ((oc * kernel + ky) * kernel + kx) * channels;
                    sum += (0..channels).map(|c| x[at + c] * weight[w + c]).sum::<f64>();
                }
                y.push(activate(activation, sum));
            }
        }
    }
    y
}

fn linear(op: &Linear, activation: Activation, batch: usize, inputs: &[Vec<f64>]) -> Vec<f64> {
    let [x, weight, bias] = [&inputs[0], &inputs[1], &inputs[2]];
    let dot = |n: usize, o: usize| -> f64 {
        (0..op.in_features).map(|i| x[n * op.in_features + i] * weight[o * op.in_features + i]).sum()
    };
    (0..batch * op.out_features)
        .map(|at| activate(activation, dot(at / op.out_features, at % op.out_features) + bias[at % op.out_features]))
        .collect()
}

fn batch_norm(op: &BatchNorm2d, activation: Activation, batch: usize, inputs: &[Vec<f64>]) -> Vec<f64> {
    let [x, weight, bias] = [&inputs[0], &inputs[1], &inputs[2]];
    let channels = op.input.channels;
    let (means, variances): (Vec<f64>, Vec<f64>) = (0..channels).map(|c| moments(x, c, channels)).unzip();
    assert_eq!(x.len(), batch * op.input.len());
    let value = |(at, x): (usize, &f64)| {
        let c = at % channels;
        let y = (x - means[c]) / (variances[c] + f64::from(op.epsilon)).sqrt() * weight[c] + bias[c];
        activate(activation, y + inputs.get(3).map_or(0.0, |residual| residual[at]))
    };
    x.iter().enumerate().map(value).collect()
}

/// Mean and biased variance of a channel.
pub fn moments(x: &[f64], channel: usize, channels: usize) -> (f64, f64) {
    let values = || x.iter().skip(channel).step_by(channels);
    let rows = (x.len() / channels) as f64;
    let mean = values().sum::<f64>() / rows;
    (mean, values().map(|x| (x - mean).powi(2)).sum::<f64>() / rows)
}

fn subsample(op: &Subsample, batch: usize, x: &[f64]) -> Vec<f64> {
    let (input, shape, before) = (op.input, op.output().expect("fits"), (op.channels - op.input.channels) / 2);
    let mut y = vec![0.0; batch * shape.len()];
    for (n, oy, ox) in (0..batch).flat_map(|n| (0..shape.pixels()).map(move |p| (n, p / shape.width, p % shape.width)))
    {
        for c in 0..input.channels {
            let from = ((n * input.height + oy * op.stride) * input.width + ox * op.stride) * input.channels + c;
            y[((n * shape.height + oy) * shape.width + ox) * shape.channels + before + c] = x[from];
        }
    }
    y
}

/// PyTorch's `start_index` and `end_index`, in floating point as in its definition.
fn adaptive_range(index: usize, inputs: usize, outputs: usize) -> std::ops::Range<usize> {
    let ratio = inputs as f64 / outputs as f64;
    (index as f64 * ratio + 1e-9) as usize..((index + 1) as f64 * ratio - 1e-9).ceil() as usize
}

fn adaptive_avg_pool(op: &AdaptiveAvgPool2d, batch: usize, x: &[f64]) -> Vec<f64> {
    let (input, mut y) = (op.input, Vec::new());
    for n in 0..batch {
        for (oy, ox) in (0..op.height).flat_map(|oy| (0..op.width).map(move |ox| (oy, ox))) {
            let (rows, cols) = (adaptive_range(oy, input.height, op.height), adaptive_range(ox, input.width, op.width));
            let pixels: Vec<usize> =
                rows.flat_map(|y| cols.clone().map(move |x| (n * input.height + y) * input.width + x)).collect();
            let mean =
                |c: usize| pixels.iter().map(|pixel| x[pixel * input.channels + c]).sum::<f64>() / pixels.len() as f64;
            y.extend((0..input.channels).map(mean));
        }
    }
    y
}

fn lrn(op: &Lrn, x: &[f64]) -> Vec<f64> {
    let [alpha, beta, k] = [op.alpha, op.beta, op.k].map(f64::from);
    let response = |c: usize| {
        let window = c.saturating_sub(op.size / 2)..(c + (op.size - 1) / 2 + 1).min(op.input.channels);
        let sum: f64 = window.map(|c| x[c] * x[c]).sum();
        x[c] / (k + alpha * sum / op.size as f64).powf(beta)
    };
    (0..op.input.channels).map(response).collect()
}

/// Pools with `reduce(values, area)`: the window's values inside the input, and the window's area up to the end of the
/// padding.
fn pool(
    input: Shape,
    output: Shape,
    window: Window,
    batch: usize,
    x: &[f64],
    reduce: impl Fn(&[f64], f64) -> f64,
) -> Vec<f64> {
    let Window { kernel, stride, padding } = window;
    let (height, width) = (output.height, output.width);
    let mut y = Vec::new();
    for n in 0..batch {
        for (oy, ox) in (0..height).flat_map(|oy| (0..width).map(move |ox| (oy, ox))) {
            for c in 0..input.channels {
                let mut values = Vec::new();
                for (iy, ix) in
                    (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (oy * stride + ky, ox * stride + kx)))
                {
                    if iy >= padding && ix >= padding && iy - padding < input.height && ix - padding < input.width {
                        let pixel = (n * input.height + iy - padding) * input.width + ix - padding;
                        values.push(x[pixel * input.channels + c]);
                    }
                }
                let along = |o: usize, size: usize| kernel.min(size + 2 * padding - o * stride);
                y.push(reduce(&values, (along(oy, input.height) * along(ox, input.width)) as f64));
            }
        }
    }
    y
}

//! The loops of batch normalisation over one piece of `[rows][channels]`, each over several pixels' channels at once.

use std::ops::Range;

use super::runtime::scratch::{self, Buffer};
use super::{ELEMENTWISE_CHUNK, Instructions};
use crate::ops::Activation;

/// Values that an inner loop runs over, at least: values of each channel are repeated to that width, so that a network's
/// first layers, of few channels, keep vectors busy too.
const LEAST_WIDTH: usize = 256;

/// How `[rows][channels]` are gone through.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    pub rows: usize,
    pub channels: usize,
    /// A multiple of the channels.
    width: usize,
    /// Values of a piece, a multiple of the width; the last may have fewer.
    pub len: usize,
}

impl Pieces {
    pub fn new(rows: usize, channels: usize) -> Self {
        let width = channels * LEAST_WIDTH.div_ceil(channels);
        Self { rows, channels, width, len: width * ELEMENTWISE_CHUNK.div_ceil(width) }
    }

    pub fn total(&self) -> usize {
        self.rows * self.channels
    }

    /// The values of a piece.
    pub fn part(&self, index: usize) -> Range<usize> {
        index * self.len..self.total().min((index + 1) * self.len)
    }

    /// A zeroed buffer of two values for each channel and piece.
    pub fn partials<'a>(&self, buffer: &'a mut Vec<f32>) -> &'a mut [f32] {
        buffer.clear();
        buffer.resize(self.total().div_ceil(self.len) * 2 * self.channels, 0.0);
        buffer
    }

    /// `N` values of each channel, each kind repeated to the width.
    pub fn repeat<'a, const N: usize>(
        &self,
        buffer: &'a mut Vec<f32>,
        values: impl Fn(usize) -> [f32; N],
    ) -> [&'a [f32]; N] {
        buffer.clear();
        buffer.resize(N * self.width, 0.0);
        for column in 0..self.width {
            for (kind, value) in values(column % self.channels).into_iter().enumerate() {
                buffer[kind * self.width + column] = value;
            }
        }
        std::array::from_fn(|kind| &buffer[kind * self.width..][..self.width])
    }

    /// `sums[channel]` of `wide`, which holds the channels again and again.
    #[inline(always)]
    fn fold(&self, wide: &[f32], sums: &mut [f32]) {
        for part in wide.chunks_exact(self.channels) {
            sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// Of one piece and every channel, the mean and the sum of the squares of the distances from it.
pub(super) fn piece_moments(set: Instructions, pieces: &Pieces, x: &[f32], moments: &mut [f32]) {
    let (mean, squares) = moments.split_at_mut(pieces.channels);
    let rows = (x.len() / pieces.channels) as f32;
    scratch::with(Buffer::Packed, 2 * pieces.width, |buffers| {
        let (wide, center) = buffers.split_at_mut(pieces.width);
        set.run(|| {
            wide.fill(0.0);
            for x in x.chunks(pieces.width) {
                wide.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
            }
            pieces.fold(wide, mean);
            mean.iter_mut().for_each(|mean| *mean /= rows);
            center.chunks_exact_mut(pieces.channels).for_each(|center| center.copy_from_slice(mean));
            wide.fill(0.0);
            // The piece is in the cache when it is read again.
            for x in x.chunks(pieces.width) {
                wide.iter_mut().zip(x.iter().zip(&*center)).for_each(|(sum, (x, center))| {
                    *sum += (x - center) * (x - center);
                });
            }
            pieces.fold(wide, squares);
        });
    });
}

/// `y = activation((x − mean) · scale + bias + residual)` over one piece, with the factors in that order. Without `x`, it
/// is what is in `y`.
pub(super) fn normalise(
    set: Instructions,
    activation: Activation,
    x: Option<&[f32]>,
    residual: Option<&[f32]>,
    y: &mut [f32],
    factors: [&[f32]; 3],
) {
    // One loop for each activation, so that none chooses inside of it.
    set.run(|| match activation {
        Activation::Identity => normalised(x, residual, y, factors, |v| v),
        Activation::Relu => normalised(x, residual, y, factors, |v| Activation::Relu.apply(v)),
        Activation::LeakyRelu { .. } => normalised(x, residual, y, factors, |v| activation.apply(v)),
        Activation::Tanh => normalised(x, residual, y, factors, |v| Activation::Tanh.apply(v)),
    });
}

#[inline(always)]
fn normalised(
    x: Option<&[f32]>,
    residual: Option<&[f32]>,
    y: &mut [f32],
    [mean, scale, bias]: [&[f32]; 3],
    activation: impl Fn(f32) -> f32,
) {
    let width = mean.len();
    let of = |x: f32, (mean, (scale, bias)): (&f32, (&f32, &f32))| (x - mean) * scale + bias;
    for (block, y) in y.chunks_mut(width).enumerate() {
        let factors = mean.iter().zip(scale.iter().zip(bias));
        let part = block * width..block * width + y.len();
        match (x.map(|x| &x[part.clone()]), residual.map(|residual| &residual[part])) {
            (Some(x), None) => {
                y.iter_mut().zip(x.iter().zip(factors)).for_each(|(y, (x, f))| *y = activation(of(*x, f)));
            }
            (Some(x), Some(residual)) => {
                let values = residual.iter().zip(x.iter().zip(factors));
                y.iter_mut().zip(values).for_each(|(y, (r, (x, f)))| *y = activation(of(*x, f) + r));
            }
            (None, None) => y.iter_mut().zip(factors).for_each(|(y, f)| *y = activation(of(*y, f))),
            (None, Some(residual)) => {
                y.iter_mut().zip(residual.iter().zip(factors)).for_each(|(y, (r, f))| *y = activation(of(*y, f) + r));
            }
        }
    }
}

/// Over one piece, the sums of `g = d_y · activation′` and of `g · (x − mean)`. With `y`, which tells the derivative, `g`
/// replaces `d_y`.
pub(super) fn gradient_sums(
    set: Instructions,
    activation: Activation,
    pieces: &Pieces,
    factors: [&[f32]; 3],
    (x, y): (&[f32], Option<&[f32]>),
    d_y: &mut [f32],
    sums: &mut [f32],
) {
    scratch::with(Buffer::Packed, 4 * pieces.width, |buffers| {
        set.run(|| match activation {
            Activation::Identity => summed(Activation::Identity, pieces, factors, (x, y), d_y, sums, buffers),
            Activation::Relu => summed(Activation::Relu, pieces, factors, (x, y), d_y, sums, buffers),
            Activation::LeakyRelu { slope } => {
                summed(Activation::LeakyRelu { slope }, pieces, factors, (x, y), d_y, sums, buffers);
            }
            Activation::Tanh => summed(Activation::Tanh, pieces, factors, (x, y), d_y, sums, buffers),
        });
    });
}

#[inline(always)]
fn summed(
    activation: Activation,
    pieces: &Pieces,
    [mean, scale, bias]: [&[f32]; 3],
    (x, y): (&[f32], Option<&[f32]>),
    d_y: &mut [f32],
    sums: &mut [f32],
    buffers: &mut [f32],
) {
    // Several short loops: one over all of these slices would be too much for the compiler to see that none overlap.
    let (totals, block_values) = buffers.split_at_mut(2 * pieces.width);
    totals.fill(0.0);
    let (sum, product) = totals.split_at_mut(pieces.width);
    let (distances, gradients) = block_values.split_at_mut(pieces.width);
    for (block, d_y) in d_y.chunks_mut(pieces.width).enumerate() {
        let part = block * pieces.width..block * pieces.width + d_y.len();
        let (distances, gradients) = (&mut distances[..d_y.len()], &mut gradients[..d_y.len()]);
        let values = x[part.clone()].iter().zip(mean);
        distances.iter_mut().zip(values).for_each(|(distance, (x, mean))| *distance = x - mean);
        if let Some(y) = y {
            d_y.iter_mut().zip(&y[part]).for_each(|(d_y, y)| *d_y = activation.backward(*y, *d_y));
            gradients.copy_from_slice(d_y);
        } else {
            let values = d_y.iter().zip(distances.iter().zip(scale.iter().zip(bias)));
            gradients.iter_mut().zip(values).for_each(|(g, (d_y, (distance, (scale, bias))))| {
                *g = activation.backward(activation.apply(distance * scale + bias), *d_y);
            });
        }
        sum.iter_mut().zip(&*gradients).for_each(|(sum, g)| *sum += g);
        let values = gradients.iter().zip(&*distances);
        product.iter_mut().zip(values).for_each(|(product, (g, distance))| *product += g * distance);
    }
    let (of_sum, of_product) = sums.split_at_mut(pieces.channels);
    pieces.fold(sum, of_sum);
    pieces.fold(product, of_product);
}

/// `d_x = g · scale + (x − mean) · of_input + constant` over one piece, with the factors in the order mean, scale, bias,
/// of_input, constant. Without `d_y`, it is what is in `d_x`.
pub(super) fn input_gradient(
    set: Instructions,
    activation: Activation,
    x: &[f32],
    d_y: Option<&[f32]>,
    d_x: &mut [f32],
    factors: [&[f32]; 5],
) {
    scratch::with(Buffer::Packed, factors[0].len(), |distances| {
        set.run(|| match activation {
            Activation::Identity => taken_back(Activation::Identity, x, d_y, d_x, factors, distances),
            Activation::Relu => taken_back(Activation::Relu, x, d_y, d_x, factors, distances),
            Activation::LeakyRelu { slope } => {
                taken_back(Activation::LeakyRelu { slope }, x, d_y, d_x, factors, distances);
            }
            Activation::Tanh => taken_back(Activation::Tanh, x, d_y, d_x, factors, distances),
        });
    });
}

#[inline(always)]
fn taken_back(
    activation: Activation,
    x: &[f32],
    d_y: Option<&[f32]>,
    d_x: &mut [f32],
    [mean, scale, bias, of_input, constant]: [&[f32]; 5],
    distances: &mut [f32],
) {
    let width = mean.len();
    for (block, d_x) in d_x.chunks_mut(width).enumerate() {
        let part = block * width..block * width + d_x.len();
        if let Some(d_y) = d_y {
            d_x.copy_from_slice(&d_y[part.clone()]);
        }
        let distances = &mut distances[..d_x.len()];
        let values = x[part].iter().zip(mean);
        distances.iter_mut().zip(values).for_each(|(distance, (x, mean))| *distance = x - mean);
        let factors = scale.iter().zip(bias).zip(of_input.iter().zip(constant));
        let values = distances.iter().zip(factors);
        d_x.iter_mut().zip(values).for_each(|(d_x, (distance, ((scale, bias), (of_input, constant))))| {
            let g = activation.backward(activation.apply(distance * scale + bias), *d_x);
            *d_x = g * scale + distance * of_input + constant;
        });
    }
}

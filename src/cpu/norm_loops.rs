//! The inner loops of batch normalisation over one piece of `[rows][channels]`, each over the channels of several
//! pixels.

use std::ops::Range;

use super::runtime::scratch::{self, Buffer};
use super::{ELEMENTWISE_CHUNK, Instructions};
use crate::ops::Activation;

/// Minimum width of an inner loop. Per-channel factors are repeated to that width, so that layers with few channels
/// also use full vectors.
const MIN_WIDTH: usize = 256;

/// The division of `[rows][channels]` into pieces, and of pieces into inner loops.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    pub rows: usize,
    pub channels: usize,
    /// Width of an inner loop, a multiple of the channels.
    width: usize,
    /// Values per piece, a multiple of the width; the last piece may be shorter.
    pub len: usize,
}

impl Pieces {
    pub fn new(rows: usize, channels: usize) -> Self {
        let width = channels * MIN_WIDTH.div_ceil(channels);
        Self { rows, channels, width, len: width * ELEMENTWISE_CHUNK.div_ceil(width) }
    }

    pub fn total(&self) -> usize {
        self.rows * self.channels
    }

    /// The range of a piece's values.
    pub fn part(&self, index: usize) -> Range<usize> {
        index * self.len..self.total().min((index + 1) * self.len)
    }

    /// A zeroed buffer for two values per piece and channel.
    pub fn partials<'a>(&self, buffer: &'a mut Vec<f32>) -> &'a mut [f32] {
        buffer.clear();
        buffer.resize(self.total().div_ceil(self.len) * 2 * self.channels, 0.0);
        buffer
    }

    /// `N` rows of per-channel factors, each repeated to the width.
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

    /// Adds the repetitions of each channel in `wide` to `sums[channel]`.
    #[inline(always)]
    fn fold(&self, wide: &[f32], sums: &mut [f32]) {
        for part in wide.chunks_exact(self.channels) {
            sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// For each channel of one piece, the mean and the sum of squared deviations from it.
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
            // The piece is still in the cache for this second pass.
            for x in x.chunks(pieces.width) {
                wide.iter_mut().zip(x.iter().zip(&*center)).for_each(|(sum, (x, center))| {
                    *sum += (x - center) * (x - center);
                });
            }
            pieces.fold(wide, squares);
        });
    });
}

/// `y = activation((x − mean) · scale + bias + residual)` over one piece, with the factors in that order. Without `x`,
/// the input is read from `y`.
pub(super) fn normalise(
    set: Instructions,
    activation: Activation,
    x: Option<&[f32]>,
    residual: Option<&[f32]>,
    y: &mut [f32],
    factors: [&[f32]; 3],
) {
    // One loop per activation, so that there is no branch inside the loop.
    set.run(|| match activation {
        Activation::Identity => normalise_loop(x, residual, y, factors, |v| v),
        Activation::Relu => normalise_loop(x, residual, y, factors, |v| Activation::Relu.apply(v)),
        Activation::LeakyRelu { .. } => normalise_loop(x, residual, y, factors, |v| activation.apply(v)),
        Activation::Tanh => normalise_loop(x, residual, y, factors, |v| Activation::Tanh.apply(v)),
    });
}

#[inline(always)]
fn normalise_loop(
    x: Option<&[f32]>,
    residual: Option<&[f32]>,
    y: &mut [f32],
    [mean, scale, bias]: [&[f32]; 3],
    activation: impl Fn(f32) -> f32,
) {
    let width = mean.len();
    let affine = |x: f32, (mean, (scale, bias)): (&f32, (&f32, &f32))| (x - mean) * scale + bias;
    for (block, y) in y.chunks_mut(width).enumerate() {
        let factors = mean.iter().zip(scale.iter().zip(bias));
        let part = block * width..block * width + y.len();
        match (x.map(|x| &x[part.clone()]), residual.map(|residual| &residual[part])) {
            (Some(x), None) => {
                y.iter_mut().zip(x.iter().zip(factors)).for_each(|(y, (x, f))| *y = activation(affine(*x, f)));
            }
            (Some(x), Some(residual)) => {
                let values = residual.iter().zip(x.iter().zip(factors));
                y.iter_mut().zip(values).for_each(|(y, (r, (x, f)))| *y = activation(affine(*x, f) + r));
            }
            (None, None) => y.iter_mut().zip(factors).for_each(|(y, f)| *y = activation(affine(*y, f))),
            (None, Some(residual)) => {
                y.iter_mut()
                    .zip(residual.iter().zip(factors))
                    .for_each(|(y, (r, f))| *y = activation(affine(*y, f) + r));
            }
        }
    }
}

/// Over one piece, the sums of `g = d_y · activation′` and of `g · (x − mean)`. With `y`, the derivative is computed
/// from `y`, and `g` overwrites `d_y`.
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
            Activation::Identity => {
                gradient_sums_loop(Activation::Identity, pieces, factors, (x, y), d_y, sums, buffers);
            }
            Activation::Relu => gradient_sums_loop(Activation::Relu, pieces, factors, (x, y), d_y, sums, buffers),
            Activation::LeakyRelu { slope } => {
                gradient_sums_loop(Activation::LeakyRelu { slope }, pieces, factors, (x, y), d_y, sums, buffers);
            }
            Activation::Tanh => gradient_sums_loop(Activation::Tanh, pieces, factors, (x, y), d_y, sums, buffers),
        });
    });
}

#[inline(always)]
fn gradient_sums_loop(
    activation: Activation,
    pieces: &Pieces,
    [mean, scale, bias]: [&[f32]; 3],
    (x, y): (&[f32], Option<&[f32]>),
    d_y: &mut [f32],
    sums: &mut [f32],
    buffers: &mut [f32],
) {
    // Several short loops: in one loop over all of these slices, the compiler could not prove that they do not overlap.
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
    let (channel_sum, channel_product) = sums.split_at_mut(pieces.channels);
    pieces.fold(sum, channel_sum);
    pieces.fold(product, channel_product);
}

/// `d_x = g · scale + (x − mean) · x_scale + constant` over one piece, with the factors in the order mean, scale, bias,
/// x_scale, constant. Without `d_y`, the output gradient is read from `d_x`.
pub(super) fn input_gradient(
    set: Instructions,
    activation: Activation,
    x: &[f32],
    d_y: Option<&[f32]>,
    d_x: &mut [f32],
    factors: [&[f32]; 5],
) {
    scratch::with(Buffer::Packed, 2 * factors[0].len(), |buffers| {
        set.run(|| match activation {
            Activation::Identity => input_gradient_loop(Activation::Identity, x, d_y, d_x, factors, buffers),
            Activation::Relu => input_gradient_loop(Activation::Relu, x, d_y, d_x, factors, buffers),
            Activation::LeakyRelu { slope } => {
                input_gradient_loop(Activation::LeakyRelu { slope }, x, d_y, d_x, factors, buffers);
            }
            Activation::Tanh => input_gradient_loop(Activation::Tanh, x, d_y, d_x, factors, buffers),
        });
    });
}

#[inline(always)]
fn input_gradient_loop(
    activation: Activation,
    x: &[f32],
    d_y: Option<&[f32]>,
    d_x: &mut [f32],
    [mean, scale, bias, x_scale, constant]: [&[f32]; 5],
    buffers: &mut [f32],
) {
    let width = mean.len();
    let (distances, gradients) = buffers.split_at_mut(width);
    for (block, d_x) in d_x.chunks_mut(width).enumerate() {
        let part = block * width..block * width + d_x.len();
        let (distances, gradients) = (&mut distances[..d_x.len()], &mut gradients[..d_x.len()]);
        let d_y = d_y.map_or(&*d_x, |d_y| &d_y[part.clone()]);
        // Several short loops: the compiler does not inline longer chains of iterators, and outside this function they
        // would not have the instruction set.
        let values = x[part].iter().zip(mean);
        distances.iter_mut().zip(values).for_each(|(distance, (x, mean))| *distance = x - mean);
        let values = d_y.iter().zip(distances.iter().zip(scale.iter().zip(bias)));
        gradients.iter_mut().zip(values).for_each(|(g, (d_y, (distance, (scale, bias))))| {
            *g = activation.backward(activation.apply(distance * scale + bias), *d_y);
        });
        gradients.iter_mut().zip(scale).for_each(|(g, scale)| *g *= scale);
        let values = gradients.iter().zip(distances.iter().zip(x_scale.iter().zip(constant)));
        d_x.iter_mut().zip(values).for_each(|(d_x, (g, (distance, (x_scale, constant))))| {
            *d_x = g + distance * x_scale + constant;
        });
    }
}

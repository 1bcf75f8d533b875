//! The inner loops of batch normalisation over one piece of `[rows][channels]`, each over the channels of several
//! pixels.

use std::ops::Range;

use super::runtime::scratch::{self, Buffer};
use super::{ELEMENTWISE_CHUNK, Instructions, Loop, Real, with_constant};
use crate::ops::Activation;

/// Minimum width of an inner loop. Per-channel factors are repeated to that width, so that layers with few channels
/// also use full vectors.
const MIN_WIDTH: usize = 256;

/// Values that the loops of gradients handle at once. They are arrays, not slices, so that the compiler knows that they do not
/// overlap, and are computed by plain loops: it does not inline long chains of iterators, which outside of the calling
/// function would not have the instruction set.
const LANES: usize = 32;

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
pub(super) fn piece_moments<R: Real>(set: Instructions, pieces: &Pieces, x: &[R], moments: &mut [f32]) {
    scratch::with(Buffer::Packed, 2 * pieces.width, |buffers| {
        set.run(Moments { pieces, x, means_and_squares: moments, buffers });
    });
}

struct Moments<'a, R> {
    pieces: &'a Pieces,
    x: &'a [R],
    means_and_squares: &'a mut [f32],
    buffers: &'a mut [f32],
}

impl<R: Real> Loop for Moments<'_, R> {
    #[inline(always)]
    fn run(self) {
        let Self { pieces, x, means_and_squares, buffers } = self;
        let (mean, squares) = means_and_squares.split_at_mut(pieces.channels);
        let (wide, center) = buffers.split_at_mut(pieces.width);
        let rows = (x.len() / pieces.channels) as f32;
        wide.fill(0.0);
        for x in x.chunks(pieces.width) {
            wide.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.get());
        }
        pieces.fold(wide, mean);
        mean.iter_mut().for_each(|mean| *mean /= rows);
        center.chunks_exact_mut(pieces.channels).for_each(|center| center.copy_from_slice(mean));
        wide.fill(0.0);
        // The piece is still in the cache for this second pass.
        for x in x.chunks(pieces.width) {
            wide.iter_mut().zip(x.iter().zip(&*center)).for_each(|(sum, (x, center))| {
                let distance = x.get() - center;
                *sum += distance * distance;
            });
        }
        pieces.fold(wide, squares);
    }
}

/// `y = activation((x − mean) · scale + bias + residual)` over one piece, with the factors in that order. Without `x`,
/// the input is read from `y`.
pub(super) fn normalise<R: Real>(
    set: Instructions,
    activation: Activation,
    x: Option<&[R]>,
    residual: Option<&[R]>,
    y: &mut [R],
    factors: [&[f32]; 3],
) {
    set.run(Normalise { activation, x, residual, y, factors });
}

struct Normalise<'a, R> {
    activation: Activation,
    x: Option<&'a [R]>,
    residual: Option<&'a [R]>,
    y: &'a mut [R],
    factors: [&'a [f32]; 3],
}

impl<R: Real> Loop for Normalise<'_, R> {
    #[inline(always)]
    fn run(self) {
        with_constant!(self.activation, activation => self.run_with(activation));
    }
}

impl<R: Real> Normalise<'_, R> {
    #[inline(always)]
    fn run_with(self, activation: Activation) {
        let Self { x, residual, y, factors: [mean, scale, bias], .. } = self;
        let affine = |x: R, (mean, (scale, bias)): (&f32, (&f32, &f32))| (x.get() - mean) * scale + bias;
        for (block, y) in y.chunks_mut(mean.len()).enumerate() {
            let factors = mean.iter().zip(scale.iter().zip(bias));
            let part = block * mean.len()..block * mean.len() + y.len();
            match (x.map(|x| &x[part.clone()]), residual.map(|residual| &residual[part])) {
                (Some(x), None) => {
                    for (y, (x, f)) in y.iter_mut().zip(x.iter().zip(factors)) {
                        *y = R::new(activation.apply(affine(*x, f)));
                    }
                }
                (Some(x), Some(residual)) => {
                    for (y, (r, (x, f))) in y.iter_mut().zip(residual.iter().zip(x.iter().zip(factors))) {
                        *y = R::new(activation.apply(affine(*x, f) + r.get()));
                    }
                }
                (None, None) => {
                    for (y, f) in y.iter_mut().zip(factors) {
                        *y = R::new(activation.apply(affine(*y, f)));
                    }
                }
                (None, Some(residual)) => {
                    for (y, (r, f)) in y.iter_mut().zip(residual.iter().zip(factors)) {
                        *y = R::new(activation.apply(affine(*y, f) + r.get()));
                    }
                }
            }
        }
    }
}

/// Over one piece, the sums of `g = d_y · activation′` and of `g · (x − mean)`. With `y`, the derivative is computed
/// from `y`, and `g` overwrites `d_y`.
pub(super) fn gradient_sums<R: Real>(
    set: Instructions,
    activation: Activation,
    pieces: &Pieces,
    factors: [&[f32]; 3],
    (x, y): (&[R], Option<&[R]>),
    d_y: &mut [R],
    sums: &mut [f32],
) {
    scratch::with(Buffer::Packed, 2 * pieces.width, |totals| {
        totals.fill(0.0);
        set.run(GradientSums { activation, factors, x, y, d_y, totals });
        let (sum, product) = totals.split_at(pieces.width);
        let (channel_sum, channel_product) = sums.split_at_mut(pieces.channels);
        pieces.fold(sum, channel_sum);
        pieces.fold(product, channel_product);
    });
}

struct GradientSums<'a, R> {
    activation: Activation,
    factors: [&'a [f32]; 3],
    x: &'a [R],
    y: Option<&'a [R]>,
    d_y: &'a mut [R],
    /// The sums of gradients, and of their products, for every column of the factors.
    totals: &'a mut [f32],
}

impl<R: Real> Loop for GradientSums<'_, R> {
    #[inline(always)]
    fn run(self) {
        with_constant!(self.activation, activation => self.run_with(activation));
    }
}

impl<R: Real> GradientSums<'_, R> {
    #[inline(always)]
    fn run_with(self, activation: Activation) {
        let Self { factors: [mean, scale, bias], x, y, d_y, totals, .. } = self;
        let (sum, product) = totals.split_at_mut(mean.len());
        for (block, d_y) in d_y.chunks_mut(mean.len()).enumerate() {
            let part = block * mean.len()..block * mean.len() + d_y.len();
            let (x, y) = (&x[part.clone()], y.map(|y| &y[part]));
            let wide = d_y.len() - d_y.len() % LANES;
            macro_rules! add {
                ($count:expr, $at:expr) => {
                    add_gradients::<R, $count>(
                        activation,
                        [lanes(mean, $at), lanes(scale, $at), lanes(bias, $at)],
                        (lanes(x, $at), y.map(|y| lanes(y, $at))),
                        lanes_mut(d_y, $at),
                        lanes_mut(sum, $at),
                        lanes_mut(product, $at),
                    )
                };
            }
            for at in (0..wide).step_by(LANES) {
                add!(LANES, at);
            }
            for at in wide..d_y.len() {
                add!(1, at);
            }
        }
    }
}

#[inline(always)]
fn add_gradients<R: Real, const N: usize>(
    activation: Activation,
    [mean, scale, bias]: [&[f32; N]; 3],
    (x, y): (&[R; N], Option<&[R; N]>),
    d_y: &mut [R; N],
    sum: &mut [f32; N],
    product: &mut [f32; N],
) {
    let (mut gradients, mut distances) = ([0.0; N], [0.0; N]);
    for i in 0..N {
        distances[i] = x[i].get() - mean[i];
    }
    if let Some(y) = y {
        let mut rounded = [R::ZERO; N];
        for i in 0..N {
            rounded[i] = R::new(activation.backward(y[i].get(), d_y[i].get()));
            gradients[i] = rounded[i].get();
        }
        *d_y = rounded;
    } else {
        for i in 0..N {
            gradients[i] = activation.backward(activation.apply(distances[i] * scale[i] + bias[i]), d_y[i].get());
        }
    }
    let mut totals = [*sum, *product];
    for i in 0..N {
        totals[0][i] += gradients[i];
        totals[1][i] += gradients[i] * distances[i];
    }
    [*sum, *product] = totals;
}

/// `d_x = g · scale + (x − mean) · x_scale + constant` over one piece, with the factors in the order mean, scale, bias,
/// x_scale, constant. Without `d_y`, the output gradient is read from `d_x`.
pub(super) fn input_gradient<R: Real>(
    set: Instructions,
    activation: Activation,
    x: &[R],
    d_y: Option<&[R]>,
    d_x: &mut [R],
    factors: [&[f32]; 5],
) {
    set.run(InputGradient { activation, x, d_y, d_x, factors });
}

struct InputGradient<'a, R> {
    activation: Activation,
    x: &'a [R],
    d_y: Option<&'a [R]>,
    d_x: &'a mut [R],
    factors: [&'a [f32]; 5],
}

impl<R: Real> Loop for InputGradient<'_, R> {
    #[inline(always)]
    fn run(self) {
        with_constant!(self.activation, activation => self.run_with(activation));
    }
}

impl<R: Real> InputGradient<'_, R> {
    #[inline(always)]
    fn run_with(self, activation: Activation) {
        let Self { x, d_y, d_x, factors: [mean, scale, bias, x_scale, constant], .. } = self;
        for (block, d_x) in d_x.chunks_mut(mean.len()).enumerate() {
            let part = block * mean.len()..block * mean.len() + d_x.len();
            let (x, d_y) = (&x[part.clone()], d_y.map(|d_y| &d_y[part]));
            let wide = d_x.len() - d_x.len() % LANES;
            macro_rules! gradients {
                ($count:expr, $at:expr) => {{
                    let d_y: [R; $count] = match d_y {
                        Some(d_y) => *lanes(d_y, $at),
                        None => *lanes(d_x, $at),
                    };
                    let factors = [lanes(mean, $at), lanes(scale, $at), lanes(bias, $at)];
                    let more = [lanes(x_scale, $at), lanes(constant, $at)];
                    *lanes_mut(d_x, $at) = input_gradients(activation, lanes(x, $at), d_y, factors, more);
                }};
            }
            for at in (0..wide).step_by(LANES) {
                gradients!(LANES, at);
            }
            for at in wide..d_x.len() {
                gradients!(1, at);
            }
        }
    }
}

#[inline(always)]
fn input_gradients<R: Real, const N: usize>(
    activation: Activation,
    x: &[R; N],
    d_y: [R; N],
    [mean, scale, bias]: [&[f32; N]; 3],
    [x_scale, constant]: [&[f32; N]; 2],
) -> [R; N] {
    let mut d_x = [R::ZERO; N];
    for i in 0..N {
        let distance = x[i].get() - mean[i];
        let g = activation.backward(activation.apply(distance * scale[i] + bias[i]), d_y[i].get());
        d_x[i] = R::new(g * scale[i] + distance * x_scale[i] + constant[i]);
    }
    d_x
}

/// `N` values from `at` on.
#[inline(always)]
fn lanes<T, const N: usize>(values: &[T], at: usize) -> &[T; N] {
    let (values, _) = values[at..].split_first_chunk().expect("the caller checks the length");
    values
}

#[inline(always)]
fn lanes_mut<T, const N: usize>(values: &mut [T], at: usize) -> &mut [T; N] {
    let (values, _) = values[at..].split_first_chunk_mut().expect("the caller checks the length");
    values
}

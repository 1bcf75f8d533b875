//! Mixing the images of a batch in pairs: mixup (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018) and
//! cutmix (Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019), as
//! `MixUp` and `CutMix` of `torchvision.transforms.v2` do.

use super::operands::operator;
use crate::rng::{Philox, Purpose};
use crate::shape::Shape;

/// Which batches are mixed, and how strongly. The default mixes none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mixing {
    /// α of the distribution Beta(α, α) of λ. With both, one of the two is chosen at random for each batch, with equal
    /// probabilities.
    pub mixup: Option<f32>,
    pub cutmix: Option<f32>,
}

/// How one batch is mixed: each image with the one before it in the batch, and the first with the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// λ, the weight of an image's own label and, in mixup, of its own values.
    pub own: f32,
    /// 1 − λ, the weight of the other image's.
    pub other: f32,
    /// In cutmix, the rows and columns that are the other image's.
    pub cut: Option<Cut>,
}

/// A rectangle of pixels: from the first row and column to those below and to the right of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub top: u32,
    pub bottom: u32,
    pub left: u32,
    pub right: u32,
}

impl Mixing {
    pub fn is_on(&self) -> bool {
        self.mixup.or(self.cutmix).is_some()
    }

    /// How the batch of a step of an epoch is mixed; `None` if mixing is off. It depends only on seed, epoch and step.
    pub fn draw(&self, shape: Shape, seed: u64, epoch: u32, step: u64) -> Option<Mix> {
        let mut stream = Philox::new(seed, Purpose::Mixing, epoch).starting_at(step << 32);
        let first = stream.next_u32() >> 31 == 0;
        match (self.mixup, self.cutmix) {
            (Some(alpha), None) => Some(Mix::mixup(beta(&mut stream, alpha))),
            (Some(alpha), Some(_)) if first => Some(Mix::mixup(beta(&mut stream, alpha))),
            (_, Some(alpha)) => {
                let lambda = beta(&mut stream, alpha);
                let [column, row] = [shape.width, shape.height].map(|side| stream.below(side as u32));
                Some(Mix::cutmix(shape, lambda, row, column))
            }
            (None, None) => None,
        }
    }
}

impl Mix {
    pub fn mixup(lambda: f32) -> Self {
        Self { own: lambda, other: (1.0 - f64::from(lambda)) as f32, cut: None }
    }

    /// The rectangle has the sides √(1 − λ) of the image's and is centred on a pixel; what is outside the image is cut
    /// off, and λ becomes the fraction of the image that is its own.
    pub fn cutmix(shape: Shape, lambda: f32, row: u32, column: u32) -> Self {
        let half = 0.5 * (1.0 - f64::from(lambda)).sqrt();
        let range = |centre: u32, side: usize| {
            let half = (half * side as f64) as u32;
            (centre.saturating_sub(half), (centre + half).min(side as u32))
        };
        let ((top, bottom), (left, right)) = (range(row, shape.height), range(column, shape.width));
        let area = f64::from(bottom - top) * f64::from(right - left);
        let lambda = 1.0 - area / (shape.width * shape.height) as f64;
        Self { own: lambda as f32, other: (1.0 - lambda) as f32, cut: Some(Cut { top, bottom, left, right }) }
    }

    /// The image of a batch of `count` that image `index` is mixed with.
    pub fn partner(index: usize, count: usize) -> usize {
        (index + count - 1) % count
    }
}

/// A number of the distribution Beta(α, α): G / (G + H) for two numbers of the distribution Gamma(α). Their logarithms
/// are compared, because with a small α both may underflow.
fn beta(stream: &mut Philox, alpha: f32) -> f32 {
    let [first, second] = [(); 2].map(|()| log_gamma(stream, alpha.into()));
    (1.0 / (1.0 + (second - first).exp())) as f32
}

/// The logarithm of a number of the distribution Gamma(α) (Marsaglia and Tsang, "A Simple Method for Generating Gamma
/// Variables", 2000).
fn log_gamma(stream: &mut Philox, alpha: f64) -> f64 {
    if alpha < 1.0 {
        return log_gamma(stream, alpha + 1.0) + uniform(stream).ln() / alpha;
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = (-2.0 * uniform(stream).ln()).sqrt() * (std::f64::consts::TAU * uniform(stream)).cos();
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform(stream).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return (d * v).ln();
        }
    }
}

/// Uniform in `(0, 1]`, with 53 random bits.
fn uniform(stream: &mut Philox) -> f64 {
    let bits = u64::from(stream.next_u32()) << 21 | u64::from(stream.next_u32() >> 11);
    (bits + 1) as f64 / (1_u64 << 53) as f64
}

operator! {
    /// Mixes the images of a batch by the next [`Mix`]: in mixup, `output[n] = other · input[n − 1] + own · input[n]`, where
    /// the image before the first is the last.
    pub struct MixImages {
        /// The shape of one image.
        value shape: Shape,
        /// `[batch][height][width][channels]`
        reads input: B,
        writes output: B,
    }
    describe(self) { "mixup or cutmix".into() }
    flops(self, len) { 3 * len(self.output) }
    // Each image is read twice.
    elements(self, len) { 3 * len(self.output) }
}

//! Saliency: the gradient of a class's logit with respect to the input.

use anyhow::{Result, ensure};

use super::Attribution;
use crate::ops::Backend;
use crate::rng::{Philox, Purpose};

/// The absolute gradient of a class's logit with respect to every value of the normalised input (Simonyan, Vedaldi and
/// Zisserman, "Deep Inside Convolutional Networks", 2013; captum's `Saliency`), `[height][width][channels]`.
///
/// # Errors
/// If the class does not exist.
pub fn saliency<B: Backend>(network: &mut Attribution<'_, B>, input: &[f32], class: usize) -> Result<Vec<f32>> {
    Ok(network.input_gradients(input, class)?.into_iter().map(f32::abs).collect())
}

/// The noise of [`smooth_grad`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothGrad {
    pub samples: usize,
    /// The standard deviation of the noise, as a fraction of the difference of the largest and the smallest input value.
    pub noise: f32,
    pub seed: u64,
}

impl Default for SmoothGrad {
    /// The paper's number of samples, and the middle of its recommended 10% to 20%.
    fn default() -> Self {
        Self { samples: 50, noise: 0.15, seed: 0 }
    }
}

impl SmoothGrad {
    /// The input with Gaussian noise added. The noise of a sample depends only on seed and sample.
    pub fn noisy(&self, input: &[f32], sample: usize) -> Vec<f32> {
        let low = input.iter().copied().fold(f32::INFINITY, f32::min);
        let high = input.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut stream = Philox::new(self.seed, Purpose::Explanation, sample as u32);
        input.iter().map(|value| value + self.noise * (high - low) * stream.normal()).collect()
    }
}

/// The absolute value of the mean gradient over noisy copies of the input (Smilkov et al., "SmoothGrad: removing noise by
/// adding noise", 2017), `[height][width][channels]`.
///
/// # Errors
/// If the class does not exist, or there are no samples.
pub fn smooth_grad<B: Backend>(
    network: &mut Attribution<'_, B>,
    input: &[f32],
    class: usize,
    settings: SmoothGrad,
) -> Result<Vec<f32>> {
    ensure!(settings.samples > 0, "SmoothGrad needs at least one sample");
    let mut sum = vec![0.0_f64; input.len()];
    for begin in (0..settings.samples).step_by(network.max_batch()) {
        let samples = begin..settings.samples.min(begin + network.max_batch());
        let noisy: Vec<f32> = samples.flat_map(|sample| settings.noisy(input, sample)).collect();
        for gradient in network.input_gradients(&noisy, class)?.chunks_exact(input.len()) {
            sum.iter_mut().zip(gradient).for_each(|(sum, &value)| *sum += f64::from(value));
        }
    }
    Ok(sum.into_iter().map(|sum| (sum / settings.samples as f64).abs() as f32).collect())
}

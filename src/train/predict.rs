//! Prediction: the probabilities that a network gives the classes of an image.

use anyhow::Result;

use super::Evaluator;
use crate::data::Split;
use crate::network::{Network, Weights};
use crate::ops::{Backend, Normalise, TestViews};

/// What a network computed for an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// One per class, before the softmax.
    pub logits: Vec<f32>,
}

impl Prediction {
    /// The probability of each class: the softmax of the logits.
    pub fn probabilities(&self) -> Vec<f64> {
        let max = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f64> = self.logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.iter().map(|exp| exp / sum).collect()
    }

    /// The `k` most likely classes with their probabilities, most likely first.
    pub fn top(&self, k: usize) -> Vec<(usize, f64)> {
        let mut classes: Vec<(usize, f64)> = self.probabilities().into_iter().enumerate().collect();
        classes.sort_by(|a, b| b.1.total_cmp(&a.1));
        classes.truncate(k);
        classes
    }
}

/// Runs a network on each of the images, `[count][height][width][channels]` of the network's input shape. The logits of
/// an image are the mean of those of its views.
///
/// # Errors
/// If the images do not fit the network, the device's memory is too small, or a logit is NaN or infinite.
pub fn predict<B: Backend>(
    backend: B,
    network: &Network,
    weights: &Weights,
    images: Vec<u8>,
    normalise: &Normalise,
    views: TestViews,
) -> Result<Vec<Prediction>> {
    // The true classes are unknown, and the loss is not used.
    let labels = vec![0; images.len() / network.input().len()];
    let images = Split { images, labels, ..Split::default() };
    let mut all = Vec::new();
    Evaluator::new(backend, network, weights, images, normalise, 1, views)?
        .run(|_, logits| all.push(Prediction { logits: logits.to_vec() }))?;
    Ok(all)
}

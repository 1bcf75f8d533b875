//! What a report says of an evaluation: the confusion matrix, and the mistakes with the highest loss.

use anyhow::Result;

use super::confusion::Confusion;
use super::picture::Picture;
use crate::ops::{Backend, Metrics, Normalise};
use crate::train::{Evaluator, Prediction};

/// The number of mistakes that a report shows.
const WORST: usize = 25;

/// The number of classes of the top-5 accuracy.
pub const TOP: usize = 5;

/// The evaluation of a network on a set of images.
#[derive(Clone, Debug)]
pub struct Evaluation {
    pub metrics: Metrics,
    pub confusion: Confusion,
    /// The fraction of images whose class is among the five most likely; `None` with at most five classes.
    pub top5_accuracy: Option<f64>,
    /// The mistakes with the highest loss, the worst first.
    pub worst: Vec<Mistake>,
}

/// An image that was classified wrongly.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// Its position in the set, counted from 0.
    pub index: usize,
    pub truth: usize,
    pub predicted: usize,
    /// The probabilities that the network gave the predicted and the true class.
    pub probability: f64,
    pub true_probability: f64,
    /// The negative logarithm of the true class's probability.
    pub loss: f64,
    /// The image as the network received it.
    pub picture: Picture,
}

/// Evaluates the images of `evaluator`, whose labels are `labels`.
///
/// # Errors
/// Those of the evaluation: a logit is not finite, or an image cannot be read.
pub fn evaluate_for_report<B: Backend>(
    evaluator: &mut Evaluator<B>,
    labels: &[u32],
    classes: &[String],
    normalise: &Normalise,
) -> Result<Evaluation> {
    let mut confusion = Confusion::new(classes.to_vec());
    let (mut worst, mut in_top) = (Vec::new(), 0_u64);
    let metrics = evaluator.run(|index, logits| {
        let truth = labels[index] as usize;
        let mistake = classify(index, truth, logits);
        confusion.add(labels[index], mistake.predicted as u32);
        in_top += u64::from(rank(logits, truth) < TOP);
        if mistake.predicted != truth {
            keep_worst(&mut worst, mistake);
        }
    })?;
    let images = evaluator.images(&worst.iter().map(|it| it.index).collect::<Vec<_>>())?;
    for (mistake, image) in worst.iter_mut().zip(images.chunks_exact(normalise.shape.len())) {
        mistake.picture = Picture::from_pixels(&normalise.pixels(image), normalise.shape);
    }
    let top5_accuracy = (classes.len() > TOP).then(|| in_top as f64 / labels.len() as f64);
    Ok(Evaluation { metrics, confusion, top5_accuracy, worst })
}

/// How an image was classified, without its picture.
fn classify(index: usize, truth: usize, logits: &[f32]) -> Mistake {
    let probabilities = Prediction { logits: logits.to_vec() }.probabilities();
    let predicted = first_maximum(logits);
    let (highest, own) = (f64::from(logits[predicted]), f64::from(logits[truth]));
    // −ln(p), where p may be too small for a number.
    let loss = highest - own - probabilities[predicted].ln();
    let picture = Picture { width: 0, height: 0, pixels: Vec::new() };
    let [probability, true_probability] = [predicted, truth].map(|class| probabilities[class]);
    Mistake { index, truth, predicted, probability, true_probability, loss, picture }
}

/// Inserts a mistake by its loss. Of equal losses, the first image comes first.
fn keep_worst(worst: &mut Vec<Mistake>, mistake: Mistake) {
    let at = worst.partition_point(|other| other.loss >= mistake.loss);
    worst.insert(at, mistake);
    worst.truncate(WORST);
}

/// How many values are larger than that of `index`, or equal and before it.
pub fn rank(values: &[f32], index: usize) -> usize {
    let is_before = |(at, value): (usize, &f32)| *value > values[index] || *value == values[index] && at < index;
    values.iter().enumerate().filter(|&it| is_before(it)).count()
}

/// Index of the maximum of finite values, the first of equals.
pub fn first_maximum(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best })
}

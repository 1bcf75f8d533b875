//! The built-in data set "digits": 28×28 images of handwritten-style digits, generated from a fixed seed without files.

mod pen;
#[rustfmt::skip] // One line per stroke, not per point.
mod strokes;

use rayon::prelude::*;

use super::{Dataset, Split};
use crate::rng::{Philox, Purpose};
use crate::shape::Shape;

/// The height and width of an image, as in MNIST.
const SIDE: usize = 28;
const CLASS_COUNT: u32 = 10;
const TRAIN_COUNT: u32 = 20_000;
const TEST_COUNT: u32 = 2_000;
/// Defines the data set: another seed produces other images.
const SEED: u64 = 1998;
/// The first random stream for shuffling labels. Lower numbers are the streams of the images, which are numbered from 0.
const FIRST_LABEL_STREAM: u32 = 1 << 31;

/// Generates the data set: 20,000 training and 2,000 test images with equally many of each class, in random order.
///
/// Image `n` depends only on the seed and on `n`, so the result does not depend on the number of threads.
pub fn generate() -> Dataset {
    Dataset {
        name: "digits".into(),
        shape: Shape::new(SIDE, SIDE, 1),
        classes: (0..CLASS_COUNT).map(|class| class.to_string()).collect(),
        mean: vec![0.5],
        std: vec![0.5],
        train: draw_split(0, TRAIN_COUNT, FIRST_LABEL_STREAM),
        val: Split::default(),
        test: draw_split(TRAIN_COUNT, TEST_COUNT, FIRST_LABEL_STREAM + 1),
    }
}

/// Draws `count` images, starting with number `first` of the data set.
fn draw_split(first: u32, count: u32, label_stream: u32) -> Split {
    let labels = shuffled_labels(count, label_stream);
    let mut images = vec![0; count as usize * SIDE * SIDE];
    images
        .par_chunks_exact_mut(SIDE * SIDE)
        .zip(&labels)
        .zip(first..first + count)
        .for_each(|((image, &label), number)| pen::draw(label, &mut Philox::new(SEED, Purpose::Digits, number), image));
    Split { images, labels, ..Split::default() }
}

/// Labels with equally many of each class, in an order shuffled by Fisher–Yates.
fn shuffled_labels(count: u32, stream: u32) -> Vec<u32> {
    let mut labels: Vec<u32> = (0..count).map(|number| number % CLASS_COUNT).collect();
    let mut random = Philox::new(SEED, Purpose::Digits, stream);
    for last in (1..count).rev() {
        labels.swap(last as usize, random.below(last + 1) as usize);
    }
    labels
}

//! The generated digits: counts, class balance, visible ink, and reproducibility.

use std::collections::HashSet;
use std::sync::LazyLock;

use cnn_cuda::data::{Dataset, Split, digits};
use cnn_cuda::shape::Shape;

static DIGITS: LazyLock<Dataset> = LazyLock::new(digits::generate);

fn images(split: &Split) -> impl Iterator<Item = &[u8]> {
    split.images.chunks_exact(28 * 28)
}

#[test]
fn counts_and_shape_are_as_documented() {
    assert_eq!(DIGITS.name, "digits");
    assert_eq!(DIGITS.shape, Shape::new(28, 28, 1));
    assert_eq!((DIGITS.train.count(), DIGITS.test.count()), (20_000, 2_000));
    assert_eq!((&DIGITS.mean, &DIGITS.std), (&vec![0.5], &vec![0.5]));
    assert_eq!(DIGITS.classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    for split in [&DIGITS.train, &DIGITS.test] {
        assert_eq!(split.images.len(), split.count() * 28 * 28);
    }
}

#[test]
fn classes_are_balanced_and_in_random_order() {
    for split in [&DIGITS.train, &DIGITS.test] {
        for class in 0..10 {
            assert_eq!(split.labels.iter().filter(|&&label| label == class).count(), split.count() / 10);
        }
        let repeats = split.labels.windows(2).filter(|pair| pair[0] == pair[1]).count() as f64;
        let expected = split.count() as f64 / 10.0;
        assert!(
            (repeats - expected).abs() < 0.3 * expected,
            "{repeats} adjacent pairs share a class; about {expected} are expected"
        );
    }
}

#[test]
fn generation_does_not_depend_on_the_number_of_threads() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let again = pool.install(digits::generate);
    for (first, second) in [(&DIGITS.train, &again.train), (&DIGITS.test, &again.test)] {
        assert_eq!(first.labels, second.labels);
        assert!(first.images == second.images, "images differ between two calls");
    }
}

/// Every image has some ink but is not covered by it, and the first row is nearly black on average.
#[test]
fn every_image_shows_a_digit() {
    for split in [&DIGITS.train, &DIGITS.test] {
        for (number, image) in images(split).enumerate() {
            let inked = image.iter().filter(|&&pixel| pixel > 100).count();
            assert!((10..400).contains(&inked), "image {number} has {inked} inked pixels");
        }
        let border_sum: u64 = images(split).flat_map(|image| &image[..28]).map(|&pixel| u64::from(pixel)).sum();
        assert!(border_sum / (28 * split.count() as u64) < 8, "the first rows are not black");
    }
}

#[test]
fn no_image_occurs_twice() {
    let mut seen = HashSet::new();
    for image in images(&DIGITS.train).chain(images(&DIGITS.test)) {
        assert!(seen.insert(image), "an image occurs twice");
    }
}

//! Gathering and normalising a batch.

use cnn_cuda::ops::{Backend, GatherOps, Metrics, Normalise, Region, Subset};
use cnn_cuda::shape::Shape;

use super::cpu;
use super::lab::Lab;

/// Gathers two batches of a three-channel set in a given order; shared with the other backends.
pub fn check_gather<B: Backend>(lab: &mut Lab<B>, relative: f32) {
    let shape = Shape::new(2, 3, 3);
    let images: Vec<u8> = (0..5 * shape.len()).map(|i| (i * 37 % 256) as u8).collect();
    let normalise = Normalise { shape, mean: vec![0.5, 0.25, 0.0], std: vec![0.5, 1.0, 2.0] };
    let labels = vec![0, 1, 2, 3, 4];
    lab.backend.load_subset(Subset::Test, &normalise, images.clone(), labels).expect("load");
    let order = [4, 0, 3, 1, 2];
    lab.backend.set_order(Subset::Test, &order, 1).expect("order");
    let output = lab.empty(Region::Arena, 3 * shape.len());
    lab.backend.set_metrics(Metrics::default()).expect("metrics");
    for batch in [&order[1..4], &order[4..]] {
        lab.backend.gather_normalise(Subset::Test, batch.len(), output).expect("gather");
        let got = lab.get(output.first(batch.len() * shape.len()));
        for (slot, &image) in batch.iter().enumerate() {
            for at in 0..shape.len() {
                let x = f32::from(images[image as usize * shape.len() + at]);
                let expected = (x / 255.0 - normalise.mean[at % 3]) / normalise.std[at % 3];
                let value = got[slot * shape.len() + at];
                assert!((value - expected).abs() <= relative * expected.abs(), "{value} instead of {expected}");
            }
        }
        // The labels went with the images: logits that favour them are all correct.
        let mut logits = vec![0.0; batch.len() * 5];
        batch.iter().enumerate().for_each(|(slot, &label)| logits[slot * 5 + label as usize] = 1.0);
        let logits = lab.put(Region::Arena, &logits);
        lab.backend.softmax_cross_entropy(5, batch.len(), logits, None).expect("loss");
    }
    let metrics = lab.backend.read_metrics().expect("metrics");
    assert_eq!((metrics.correct, metrics.samples, metrics.steps), (4, 4, 2));
}

#[test]
fn gather_follows_the_order_and_normalises_per_channel() {
    check_gather(&mut cpu(), 0.0);
}

#[test]
fn the_end_of_the_order_is_an_error() {
    let mut lab = cpu();
    let shape = Shape::new(1, 1, 1);
    let normalise = Normalise { shape, mean: vec![0.5], std: vec![0.5] };
    let output = lab.empty(Region::Arena, 4);
    assert!(lab.backend.gather_normalise(Subset::Train, 1, output).is_err(), "nothing was loaded");
    lab.backend.load_subset(Subset::Train, &normalise, vec![1, 2], vec![0, 0]).expect("load");
    assert!(lab.backend.set_order(Subset::Train, &[0, 2], 0).is_err(), "image 2 does not exist");
    lab.backend.set_order(Subset::Train, &[1, 0], 1).expect("order");
    assert!(lab.backend.gather_normalise(Subset::Train, 2, output).is_err(), "one image is left");
}

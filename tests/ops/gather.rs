//! Gathering and normalising a batch.

use std::sync::Arc;

use cnn_cuda::images::HostImages;
use cnn_cuda::ops::{
    Augmentation, Backend, DataSets, Flip, Gather, Metrics, Normalise, PaddingMode, Region, SoftmaxCrossEntropy,
    Subset, View,
};
use cnn_cuda::rng::{Purpose, draw};
use cnn_cuda::shape::Shape;

use super::cpu;
use super::lab::Lab;

/// Gathers two batches of a three-channel set in a given order. Tests of other backends use it too.
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
        let output = output.first(batch.len() * shape.len());
        lab.run(Gather { subset: Subset::Test, shape, augmentation: None, view: View::default(), output });
        let got = lab.get(output);
        for (slot, &image) in batch.iter().enumerate() {
            for at in 0..shape.len() {
                let x = f32::from(images[image as usize * shape.len() + at]);
                let expected = (x / 255.0 - normalise.mean[at % 3]) / normalise.std[at % 3];
                let value = got[slot * shape.len() + at];
                assert!((value - expected).abs() <= relative * expected.abs(), "{value} instead of {expected}");
            }
        }
        // The labels were gathered with the images, so logits that favour them are all correct.
        let mut logits = vec![0.0; batch.len() * 5];
        batch.iter().enumerate().for_each(|(slot, &label)| logits[slot * 5 + label as usize] = 1.0);
        let logits = lab.put(Region::Arena, &logits);
        lab.run(SoftmaxCrossEntropy { classes: 5, logits, gradient: None });
    }
    let metrics = lab.backend.read_metrics().expect("metrics");
    assert_eq!((metrics.correct, metrics.samples, metrics.steps), (4, 4, 2));
}

/// What an augmentation is drawn from: the words of the image's position, the word of its index, and the epoch.
#[derive(Clone, Copy)]
struct Drawn {
    words: [[u32; 4]; 2],
    own: u32,
    epoch: u32,
}

/// The expected augmented image, step by step: padding, random crop, flip, brightness, normalisation, contrast, cutout.
fn augmented(op: &Augmentation, normalise: &Normalise, image: &[u8], drawn: Drawn) -> Vec<f32> {
    let Drawn { words, own, epoch } = drawn;
    let Shape { height, width, channels } = normalise.shape;
    let part = |word: u32, bound: usize| (u64::from(word) * bound as u64 / (1 << 32)) as usize;
    let pad = op.crop_padding as usize;
    let (wide, tall) = (width + 2 * pad, height + 2 * pad);
    let mut padded = vec![0_u8; wide * tall * channels];
    for (y, x) in (0..tall).flat_map(|y| (0..wide).map(move |x| (y, x))) {
        let inside = (pad..pad + height).contains(&y) && (pad..pad + width).contains(&x);
        if inside || op.padding_mode == PaddingMode::Reflect {
            // The distance from the nearest border is mirrored.
            let at = |padded: usize, side: usize| {
                let (before, after) = (pad.saturating_sub(padded), (padded + 1).saturating_sub(pad + side));
                (padded + 2 * before) - pad - 2 * after
            };
            let from = &image[(at(y, height) * width + at(x, width)) * channels..][..channels];
            padded[(y * wide + x) * channels..][..channels].copy_from_slice(from);
        }
    }
    let flip = match op.flip {
        Flip::Never => false,
        Flip::Random => words[0][2] >= 1 << 31,
        Flip::Alternating => (own >= 1 << 31) ^ (epoch & 1 == 1),
    };
    let (top, left) = (part(words[0][0], 2 * pad + 1), part(words[0][1], 2 * pad + 1));
    let factor = |word: u32, spread: f32| {
        let unit = f64::from(word >> 8) / f64::from(1 << 24);
        (1.0 + f64::from(spread) * (2.0 * unit - 1.0)) as f32
    };
    let (brightness, contrast) = (factor(words[1][1], op.brightness), factor(words[1][2], op.contrast));
    let cutout = |word: u32, side: usize| {
        let begin = part(word, side) as i64 - i64::from(op.cutout) / 2;
        begin..begin + i64::from(op.cutout)
    };
    let (rows, columns) = (cutout(words[0][3], height), cutout(words[1][0], width));
    let mut result = Vec::new();
    for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
        let from = if flip { width - 1 - column } else { column };
        for channel in 0..channels {
            let byte = padded[((row + top) * wide + from + left) * channels + channel];
            let brightened = (f32::from(byte) / 255.0 * brightness).min(1.0);
            let value = (brightened - normalise.mean[channel]) / normalise.std[channel] * contrast;
            let is_cut_out = rows.contains(&(row as i64)) && columns.contains(&(column as i64));
            result.push(if is_cut_out { 0.0 } else { value });
        }
    }
    result
}

/// Compares augmented training images bit for bit, and checks that test images are not augmented. Tests of other
/// backends use it too.
pub fn check_augmentation<B: Backend>(lab: &mut Lab<B>, rounded: fn(f32) -> f32) {
    let none = Augmentation::default();
    let all = Augmentation { crop_padding: 2, flip: Flip::Random, cutout: 3, brightness: 0.5, contrast: 0.25, ..none };
    let (reflect, alternating) = (PaddingMode::Reflect, Flip::Alternating);
    let settings = [
        (all, 0),
        (Augmentation { flip: Flip::Random, ..none }, 1),
        (Augmentation { cutout: 4, crop_padding: 9, ..none }, 77),
        (none, 3),
        (Augmentation { padding_mode: reflect, ..all }, 0),
        (Augmentation { crop_padding: 4, padding_mode: reflect, flip: alternating, ..none }, 8),
        (Augmentation { flip: alternating, ..none }, 0),
        (Augmentation { flip: alternating, ..none }, 1),
    ];
    let shape = Shape::new(5, 7, 3);
    let images: Vec<u8> = (0..6 * shape.len()).map(|i| (i * 37 % 256) as u8).collect();
    let normalise = Normalise { shape, mean: vec![0.5, 0.25, 0.0], std: vec![0.5, 0.3, 2.0] };
    for subset in [Subset::Train, Subset::Test] {
        lab.backend.load_subset(subset, &normalise, images.clone(), vec![0; 6]).expect("load");
    }
    let (order, seed) = ([5, 1, 4, 0, 2, 3], 0x1234_5678_9abc_def0);
    let output = lab.empty(Region::Arena, 4 * shape.len());
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for (op, epoch) in &settings {
        let epoch = *epoch;
        lab.backend.set_augmentation_epoch(seed, epoch).expect("settings");
        lab.backend.set_order(Subset::Train, &order, 1).expect("order");
        for batch in [1..4, 4..6] {
            let output = output.first(batch.len() * shape.len());
            lab.run(Gather { subset: Subset::Train, shape, augmentation: Some(*op), view: View::default(), output });
            let got = lab.get(output);
            let image = |position: usize| {
                let words = [0, 1].map(|half| draw(seed, Purpose::Augmentation, epoch, 2 * position as u64 + half));
                let [own, ..] = draw(seed, Purpose::Flip, 0, order[position].into());
                let image = &images[order[position] as usize * shape.len()..][..shape.len()];
                augmented(op, &normalise, image, Drawn { words, own, epoch })
            };
            let expected: Vec<f32> = batch.flat_map(image).map(rounded).collect();
            assert_eq!(bits(&got), bits(&expected), "{op:?}");
        }
        lab.backend.set_order(Subset::Test, &order, 0).expect("order");
        let output = output.first(shape.len());
        lab.run(Gather { subset: Subset::Test, shape, augmentation: None, view: View::default(), output });
        let plain =
            augmented(&none, &normalise, &images[5 * shape.len()..], Drawn { words: [[0; 4]; 2], own: 0, epoch: 0 });
        let plain: Vec<f32> = plain.into_iter().map(rounded).collect();
        assert_eq!(bits(&lab.get(output)), bits(&plain), "a test image was augmented");
    }
}

/// Batches of a streamed set equal those of a resident set, including labels, after every change of the order. Tests of
/// other backends use it too.
pub fn check_streaming<B: Backend>(lab: &mut Lab<B>) {
    let shape = Shape::new(3, 2, 3);
    let count = 11;
    let images: Vec<u8> = (0..count * shape.len()).map(|i| (i * 37 % 251) as u8).collect();
    let normalise = Normalise { shape, mean: vec![0.5, 0.25, 0.0], std: vec![0.5, 0.3, 2.0] };
    let labels: Vec<u32> = (0..count as u32).map(|image| image % 5).collect();
    let output = lab.empty(Region::Arena, 3 * shape.len());
    let padding_mode = PaddingMode::Reflect;
    let op = Augmentation { crop_padding: 1, padding_mode, flip: Flip::Alternating, ..Augmentation::default() };
    let gather = |batch| {
        let output = output.first(batch * shape.len());
        Gather { subset: Subset::Train, shape, augmentation: Some(op), view: View::default(), output }
    };
    // The logits favour one class per row, so the number of correct predictions depends on the labels.
    let mut logits = vec![0.0; 10];
    (logits[3], logits[5 + 4]) = (1.0, 1.0);
    let logits = lab.put(Region::Arena, &logits);
    let order: Vec<u32> = (0..count as u32).map(|at| at * 7 % count as u32).collect();
    let run = |lab: &mut Lab<B>| {
        let mut seen = Vec::new();
        for (epoch, position, batches) in [(0, 0, 6), (1, 4, 2), (2, 2, 5), (2, 0, 1)] {
            lab.backend.set_augmentation_epoch(3, epoch).expect("settings");
            lab.backend.set_order(Subset::Train, &order, position).expect("order");
            lab.backend.set_metrics(Metrics::default()).expect("metrics");
            for number in 0..batches {
                let batch = (count - position - 2 * number).min(2);
                lab.run(gather(batch));
                seen.extend(lab.get(gather(batch).output).iter().map(|value| value.to_bits()));
                lab.run(SoftmaxCrossEntropy { classes: 5, logits: logits.first(5 * batch), gradient: None });
                seen.push(lab.backend.read_metrics().expect("metrics").correct as u32);
            }
        }
        seen
    };
    lab.backend.load_subset(Subset::Train, &normalise, images.clone(), labels.clone()).expect("load");
    let expected = run(lab);
    let source = Arc::new(HostImages { images, image_len: shape.len() });
    lab.backend.stream_subset(Subset::Train, &normalise, source, labels, 2).expect("stream");
    assert!(run(lab) == expected, "streamed batches differ");
    assert!(lab.try_run(gather(3)).is_err(), "batches have at most two images");
}

#[test]
fn streamed_batches_equal_resident_ones() {
    check_streaming(&mut cpu());
}

#[test]
fn training_images_are_augmented_and_test_images_are_not() {
    check_augmentation(&mut cpu(), |value| value);
}

#[test]
fn augmentations_are_uniform_and_differ_by_image_epoch_and_seed() {
    let op = Augmentation {
        crop_padding: 2,
        flip: Flip::Random,
        cutout: 4,
        brightness: 0.5,
        contrast: 0.25,
        ..Augmentation::default()
    };
    let (shape, count) = (Shape::new(10, 10, 1), 20_000_u64);
    let drawn: Vec<_> = (0..count).map(|position| op.draw(shape, 7, 3, position, 0)).collect();
    // The hits of n draws with probability p must be within five standard deviations of their mean.
    let near = |what: &str, hits: usize, p: f64| {
        let (n, hits) = (count as f64, hits as f64);
        assert!((hits - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt(), "{what}: {hits} of {n}, not {p}");
    };
    for offset in -2..=2 {
        near("top", drawn.iter().filter(|d| d.top == offset).count(), 0.2);
        near("left", drawn.iter().filter(|d| d.left == offset).count(), 0.2);
        near("both", drawn.iter().filter(|d| (d.top, d.left) == (offset, offset)).count(), 0.04);
    }
    near("flip", drawn.iter().filter(|d| d.flip).count(), 0.5);
    for centre in 2..8 {
        near("rows", drawn.iter().filter(|d| d.cutout[0] == (centre - 2..centre + 2)).count(), 0.1);
        near("columns", drawn.iter().filter(|d| d.cutout[1] == (centre - 2..centre + 2)).count(), 0.1);
    }
    near("corner", drawn.iter().filter(|d| d.cutout == [0..2, 0..2]).count(), 0.01);
    assert!(drawn.iter().all(|d| (0.5..=1.5).contains(&d.brightness) && (0.75..=1.25).contains(&d.contrast)));
    near("dark", drawn.iter().filter(|d| d.brightness < 0.6).count(), 0.1);
    near("bright and flat", drawn.iter().filter(|d| d.brightness > 1.0 && d.contrast < 1.0).count(), 0.25);
    let other = |seed, epoch| (0..count).filter(|&p| op.draw(shape, seed, epoch, p, 0) == drawn[p as usize]).count();
    assert_eq!((other(7, 3), other(7, 4), other(8, 3)), (count as usize, 0, 0));
}

#[test]
fn alternating_flips_mirror_every_image_in_every_second_epoch() {
    let op = Augmentation { flip: Flip::Alternating, ..Augmentation::default() };
    let (shape, count) = (Shape::new(4, 4, 1), 20_000);
    let flips = |seed: u64, epoch: u32, position: fn(u32) -> u64| -> Vec<bool> {
        (0..count).map(|image| op.draw(shape, seed, epoch, position(image), image).flip).collect()
    };
    let first = flips(7, 0, u64::from);
    let flipped = first.iter().filter(|&&flip| flip).count();
    // Five standard deviations of 20 000 draws with probability ½.
    assert!(flipped.abs_diff(10_000) < 354, "{flipped} of 20000 are flipped");
    for epoch in 1..5 {
        let other = |(a, b): (&bool, &bool)| (a != b) == (epoch % 2 == 1);
        // The position in the epoch's order has no effect.
        assert!(flips(7, epoch, |image| 3 * u64::from(image) + 1).iter().zip(&first).all(other), "epoch {epoch}");
    }
    let same = flips(8, 0, u64::from).iter().zip(&first).filter(|(a, b)| a == b).count();
    assert!(same.abs_diff(10_000) < 354, "{same} of 20000 are flipped with both seeds");
}

#[test]
fn a_reflected_padding_must_be_smaller_than_the_image() {
    let (shape, none) = (Shape::new(5, 8, 3), Augmentation::default());
    let reflect = Augmentation { padding_mode: PaddingMode::Reflect, ..none };
    assert!(Augmentation { crop_padding: 4, ..reflect }.check(shape).is_ok());
    let error = Augmentation { crop_padding: 5, ..reflect }.check(shape).expect_err("too wide").to_string();
    assert!(error.contains("--crop-padding must be below its side of 5 pixels, but is 5"), "{error}");
    assert!(Augmentation { crop_padding: 5, ..none }.check(shape).is_ok());
}

#[test]
fn gather_follows_the_order_and_normalises_per_channel() {
    check_gather(&mut cpu(), 0.0);
}

#[test]
fn gathering_past_the_end_of_the_order_is_an_error() {
    let mut lab = cpu();
    let shape = Shape::new(1, 1, 1);
    let normalise = Normalise { shape, mean: vec![0.5], std: vec![0.5] };
    let output = lab.empty(Region::Arena, 2);
    let gather = Gather { subset: Subset::Train, shape, augmentation: None, view: View::default(), output };
    assert!(lab.try_run(gather).is_err(), "nothing was loaded");
    lab.backend.load_subset(Subset::Train, &normalise, vec![1, 2], vec![0, 0]).expect("load");
    assert!(lab.backend.set_order(Subset::Train, &[0, 2], 0).is_err(), "image 2 does not exist");
    lab.backend.set_order(Subset::Train, &[1, 0], 1).expect("order");
    assert!(lab.try_run(gather).is_err(), "only one image remains");
}

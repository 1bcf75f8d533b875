//! Superpixels: those of scikit-image, pictures with clear regions, and data sets in memory and streamed.

use std::fs;

use cnn_cuda::data::slic::{average_segments, segment};
use cnn_cuda::data::{self, LoadOptions, ValidationOptions};
use cnn_cuda::shape::Shape;
use safetensors::SafeTensors;

/// Labels from 0 in the order of the pixels, so that equal divisions have equal labels.
fn renumbered(labels: &[u32]) -> Vec<usize> {
    let mut seen: Vec<u32> = Vec::new();
    let number = |&label: &u32| {
        seen.iter().position(|&other| other == label).unwrap_or_else(|| {
            seen.push(label);
            seen.len() - 1
        })
    };
    labels.iter().map(number).collect()
}

#[test]
fn superpixels_are_those_of_scikit_image() {
    let bytes = fs::read("tests/reference/superpixels.safetensors").expect("a golden file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut compared = 0;
    for name in tensors.names() {
        let (picture, count) = name.split_once('.').expect("a dot");
        let Ok(count) = count.parse::<usize>() else { continue };
        let image = tensors.tensor(&format!("{picture}.image")).expect("its image");
        let &[height, width, channels] = image.shape() else { panic!("{name}") };
        let expected = tensors.tensor(name).expect("its labels");
        let expected: Vec<u32> =
            expected.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let found = segment(image.data(), Shape::new(height, width, channels), count);
        assert_eq!(renumbered(&found), renumbered(&expected), "{name}");
        compared += 1;
    }
    assert!(compared > 10, "{compared}");
}

/// A picture of 2 × 3 squares of 8 pixels, each of one colour.
fn squares(channels: usize) -> (Vec<u8>, Shape) {
    let shape = Shape::new(16, 24, channels);
    let level = |y: usize, x: usize, channel: usize| ((y / 8 * 3 + x / 8) * 45 + channel * 17) as u8;
    let pixels = (0..shape.pixels()).flat_map(|at| (0..channels).map(move |c| level(at / 24, at % 24, c)));
    (pixels.collect(), shape)
}

#[test]
fn clear_regions_are_found_exactly() {
    for channels in [1, 3] {
        let (image, shape) = squares(channels);
        let labels = segment(&image, shape, 6);
        let expected: Vec<usize> = (0..shape.pixels()).map(|at| at / 24 / 8 * 3 + at % 24 / 8).collect();
        assert_eq!(renumbered(&labels), expected);
        // Superpixels that do not cross the borders leave the picture as it is.
        for count in [6, 24, 96, shape.pixels()] {
            let mut averaged = image.clone();
            average_segments(&mut averaged, shape, count);
            assert!(averaged == image, "{channels} channels, {count} superpixels");
        }
    }
}

#[test]
fn each_superpixel_has_its_rounded_mean_colour_and_is_connected() {
    let shape = Shape::new(21, 17, 3);
    // A slope with some noise.
    let level = |at: usize| (at / 51 * 7 + at / 3 % 17 * 5 + at * at % 11) as u8;
    let image: Vec<u8> = (0..shape.len()).map(level).collect();
    let labels = segment(&image, shape, 20);
    let mut averaged = image.clone();
    average_segments(&mut averaged, shape, 20);
    let count = labels.iter().max().expect("pixels") + 1;
    assert!((8..=30).contains(&count), "{count}");
    for label in 0..count {
        let pixels: Vec<usize> = (0..shape.pixels()).filter(|&at| labels[at] == label).collect();
        for channel in 0..3 {
            let sum: f64 = pixels.iter().map(|at| f64::from(image[at * 3 + channel])).sum();
            let mean = (sum / pixels.len() as f64 + 0.5).floor() as u8;
            assert!(pixels.iter().all(|at| averaged[at * 3 + channel] == mean), "superpixel {label}");
        }
        let mut reached = vec![pixels[0]];
        let mut next = 0;
        while next < reached.len() {
            let (y, x) = (reached[next] / 17, reached[next] % 17);
            for &at in pixels.iter().filter(|&&at| (at / 17).abs_diff(y) + (at % 17).abs_diff(x) == 1) {
                if !reached.contains(&at) {
                    reached.push(at);
                }
            }
            next += 1;
        }
        assert_eq!(reached.len(), pixels.len(), "superpixel {label} is not connected");
    }
}

#[test]
fn extreme_shapes_and_counts_work() {
    for (height, width) in [(1, 1), (1, 9), (9, 1), (2, 300), (5, 5)] {
        for count in [1, 2, 7, 1_000_000] {
            let shape = Shape::new(height, width, 1);
            let image: Vec<u8> = (0..shape.len()).map(|at| (at * 37) as u8).collect();
            let labels = segment(&image, shape, count);
            assert!(labels.len() == shape.pixels() && labels.contains(&0), "{height}×{width} {count}");
            let mut averaged = image.clone();
            average_segments(&mut averaged, shape, count);
            if count >= shape.pixels() {
                assert_eq!(averaged, image);
            }
        }
    }
}

#[test]
fn training_validation_and_test_images_are_averaged() {
    let load = |segments| {
        let validation = Some(ValidationOptions { fraction: 0.1, seed: 0 });
        data::load("digits", &LoadOptions { segments, validation, ..LoadOptions::default() }).expect("digits")
    };
    let (plain, averaged) = (load(None), load(Some(60)));
    for (before, after) in [(&plain.train, &averaged.train), (&plain.val, &averaged.val), (&plain.test, &averaged.test)]
    {
        let mut image = before.images[..784].to_vec();
        average_segments(&mut image, plain.shape, 60);
        assert!(after.images[..784] == image && image != before.images[..784]);
        assert_eq!(before.labels, after.labels);
    }
    assert_ne!(plain.fingerprint(), averaged.fingerprint());
}

//! Data sets: the table of names, validation, fingerprints, and the order of samples in an epoch.

mod against_pil;
mod archive;
mod cifar;
mod colour;
mod crops;
mod fetch;
mod folder;
mod idx;
mod layout;
mod members;
mod mnist;
mod pretrained;
mod streamed;
mod superpixels;
mod validation;

use std::path::PathBuf;

use cnn_cuda::data::{self, Dataset, LoadOptions, Split, sampler::epoch_order};
use cnn_cuda::shape::Shape;
use proptest::prelude::*;

/// Options that read from `folder` and never download.
fn offline(folder: impl Into<PathBuf>) -> LoadOptions {
    LoadOptions { folder: folder.into(), ..LoadOptions::default() }
}

/// The folder with the user's data sets: `$CNN_CUDA_DATA`, or `data`.
fn data_folder() -> PathBuf {
    std::env::var_os("CNN_CUDA_DATA").map_or_else(|| PathBuf::from("data"), PathBuf::from)
}

/// The whole error chain, as `main` prints it. Panics if `result` is a success.
fn message<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => format!("{error:#}"),
    }
}

#[track_caller]
fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// Three images of 1×2 pixels in two classes.
fn tiny() -> Dataset {
    let split = Split { images: vec![0, 50, 100, 150, 200, 250], labels: vec![0, 1, 0], ..Split::default() };
    Dataset {
        name: "tiny".into(),
        shape: Shape::new(1, 2, 1),
        classes: vec!["a".into(), "b".into()],
        mean: vec![0.5],
        std: vec![0.5],
        train: split.clone(),
        val: Split::default(),
        test: split,
    }
}

#[track_caller]
fn assert_invalid(change: impl FnOnce(&mut Dataset), parts: &[&str]) {
    let mut dataset = tiny();
    change(&mut dataset);
    assert_contains(&message(dataset.validate()), parts);
}

#[test]
fn the_error_for_an_unknown_name_lists_the_known_names() {
    let message = message(data::load("mnits", &offline("unused")));
    assert_contains(&message, &["mnits"]);
    assert_contains(&message, &data::names());
}

#[test]
fn every_name_is_unique() {
    let names: std::collections::BTreeSet<_> = data::names().into_iter().collect();
    assert_eq!(names.len(), data::TABLE.len());
    assert!(data::fetchable().iter().all(|name| names.contains(name)));
}

#[test]
fn digits_needs_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let digits = data::load("digits", &offline(folder.path().join("absent"))).unwrap();
    assert_eq!(digits.classes.len(), 10);
}

#[test]
fn validation_accepts_a_valid_set() {
    tiny().validate().unwrap();
}

#[test]
fn validation_refuses_images_that_do_not_match_the_labels() {
    assert_invalid(|set| set.train.images.truncate(5), &["training split", "do not have 5 bytes"]);
    assert_invalid(|set| set.test.labels.truncate(2), &["test split", "do not have 6 bytes"]);
}

#[test]
fn validation_refuses_a_label_without_a_class() {
    assert_invalid(|set| set.test.labels[1] = 2, &["test split", "image 1", "label 2"]);
}

#[test]
fn validation_refuses_an_empty_split() {
    assert_invalid(|set| set.test = Split::default(), &["test split", "no images"]);
}

#[test]
fn validation_refuses_images_without_pixels() {
    assert_invalid(|set| set.shape = Shape::new(0, 2, 1), &["no pixels"]);
}

#[test]
fn validation_refuses_an_invalid_normalisation() {
    assert_invalid(|set| set.mean = vec![], &["0 means"]);
    assert_invalid(|set| set.std = vec![0.5; 3], &["3 standard deviations"]);
    assert_invalid(|set| set.mean = vec![f32::NAN], &["mean is not finite"]);
    for std in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_invalid(|set| set.std = vec![std], &["standard deviation is not positive"]);
    }
}

#[test]
fn any_change_to_a_set_changes_its_fingerprint() {
    let fingerprint = tiny().fingerprint();
    assert_eq!(Dataset { name: "a copy".into(), ..tiny() }.fingerprint(), fingerprint);
    let changes: [fn(&mut Dataset); 4] = [
        |set| set.train.images[5] ^= 1,
        |set| set.train.labels[2] = 1,
        |set| set.shape = Shape::new(2, 1, 1),
        |set| set.train.images.swap(0, 1),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut set = tiny();
        change(&mut set);
        assert_ne!(set.fingerprint(), fingerprint, "change {index} does not change the fingerprint");
    }
}

proptest! {
    #[test]
    fn an_epoch_visits_every_sample_once(count in 0_usize..600, seed: u64, epoch: u32, shuffle: bool) {
        let mut order = epoch_order(count, seed, epoch, shuffle);
        prop_assert_eq!(&order, &epoch_order(count, seed, epoch, shuffle));
        order.sort_unstable();
        prop_assert_eq!(order, (0..count as u32).collect::<Vec<_>>());
    }
}

#[test]
fn an_unshuffled_epoch_keeps_the_order_of_the_files() {
    assert_eq!(epoch_order(5, 7, 3, false), [0, 1, 2, 3, 4]);
}

#[test]
fn orders_differ_between_epochs_and_seeds() {
    let order = epoch_order(100, 7, 0, true);
    assert_ne!(order, epoch_order(100, 7, 1, true));
    assert_ne!(order, epoch_order(100, 8, 0, true));
    assert_ne!(order, epoch_order(100, 7, 0, false));
}

/// In 24,000 draws, each of the 24 orders of four samples is expected 1,000 times, with a standard deviation of 31, so
/// 150 off is nearly five standard deviations.
#[test]
fn every_order_is_equally_likely() {
    let mut counts = std::collections::HashMap::<Vec<u32>, u32>::new();
    for epoch in 0..24_000 {
        *counts.entry(epoch_order(4, 1, epoch, true)).or_default() += 1;
    }
    assert_eq!(counts.len(), 24);
    assert!(counts.values().all(|&count| count.abs_diff(1000) < 150), "{counts:?}");
}

//! Validation sets: held out of the training images, or in a folder of their own.

use std::fs;
use std::path::Path;

use cnn_cuda::data::{self, Dataset, LoadOptions, Residency, Split, ValidationOptions};

use super::folder::load_with;
use super::{assert_contains, message};

fn held_out(fraction: f64, seed: u64) -> ValidationOptions {
    ValidationOptions { fraction, seed }
}

fn digits(validation: Option<ValidationOptions>) -> Dataset {
    data::load("digits", &LoadOptions { validation, ..LoadOptions::default() }).unwrap()
}

/// The labels and images of a split, sorted.
fn sorted(splits: &[&Split], len: usize) -> Vec<(u32, Vec<u8>)> {
    let images = |split: &Split| split.images.chunks(len).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut all: Vec<_> = splits.iter().flat_map(|split| split.labels.clone().into_iter().zip(images(split))).collect();
    all.sort();
    all
}

#[test]
fn a_fraction_of_every_class_is_held_out() {
    let (whole, set) = (digits(None), digits(Some(held_out(0.2, 0))));
    let count = |split: &Split, label| split.labels.iter().filter(|&&found| found == label).count();
    for label in 0..10 {
        let expected = (count(&whole.train, label) as f64 * 0.2).round() as usize;
        assert_eq!(count(&set.val, label), expected, "class {label}");
    }
    let len = set.shape.len();
    assert!(sorted(&[&set.train, &set.val], len) == sorted(&[&whole.train], len), "images are lost or used twice");
    assert!(set.test.images == whole.test.images && set.test.labels == whole.test.labels);
    // The choice depends on the seed alone.
    assert_eq!(digits(Some(held_out(0.2, 0))).val_fingerprint(), set.val_fingerprint());
    let other = digits(Some(held_out(0.2, 1)));
    assert_ne!(other.val_fingerprint(), set.val_fingerprint());
    assert_ne!(other.fingerprint(), set.fingerprint());
    assert_eq!((whole.val.count(), whole.val_fingerprint()), (0, 0));
}

/// Ten pictures of two classes for each split, of which every pixel has the same level.
fn write_three_splits(root: &Path) {
    for (part, base) in [("train", 0), ("Validation", 100), ("test", 200)] {
        for index in 0..10_u8 {
            let folder = root.join(part).join(["cat", "dog"][usize::from(index % 2)]);
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join(format!("{index}.png"));
            image::save_buffer(path, &[base + index; 16], 4, 4, image::ExtendedColorType::L8).unwrap();
        }
    }
}

fn pack(folder: &Path, archive: &Path) {
    let mut builder = tar::Builder::new(fs::File::create(archive).unwrap());
    builder.append_dir_all("set", folder).unwrap();
    builder.finish().unwrap();
}

#[test]
fn a_folder_for_validation_beside_one_for_testing_is_a_set_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    write_three_splits(&root);
    let archive = folder.path().join("set.tar");
    pack(&root, &archive);
    for path in [&root, &archive] {
        let set = load_with(path, |_| {}).unwrap();
        let levels = |split: &Split| split.images.chunks(16).map(|image| image[0]).collect::<Vec<u8>>();
        let expected = |base: u8| [0, 2, 4, 6, 8, 1, 3, 5, 7, 9].map(|index| base + index).to_vec();
        for (split, base) in [(&set.train, 0), (&set.val, 100), (&set.test, 200)] {
            assert_eq!((levels(split), &split.labels[4..6]), (expected(base), &[0, 1][..]));
        }
        let streamed = load_with(path, |options| options.residency = Residency::Stream).unwrap();
        assert_eq!(streamed.val_fingerprint(), set.val_fingerprint());
        let tested = load_with(path, |options| options.test_only = true).unwrap();
        assert_eq!((tested.val.count(), levels(&tested.test)), (0, expected(200)));
    }
    let both = load_with(&root, |options| options.validation = Some(held_out(0.5, 0)));
    assert_contains(&message(both), &["--val-fraction", "10 validation images of its own"]);
    // A class that only the validation set has.
    fs::create_dir(root.join("Validation/cow")).unwrap();
    fs::copy(root.join("test/cat/0.png"), root.join("Validation/cow/0.png")).unwrap();
    assert_contains(&message(load_with(&root, |_| {})), &["cow", "training classes"]);
}

/// Streamed images are chosen among those of the files.
#[test]
fn streamed_images_are_held_out_like_resident_ones() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    write_three_splits(&root);
    fs::remove_dir_all(root.join("Validation")).unwrap();
    let archive = folder.path().join("set.tar");
    pack(&root, &archive);
    for path in [&root, &archive] {
        let [resident, streamed] = [Residency::Resident, Residency::Stream].map(|residency| {
            load_with(path, |options| (options.residency, options.validation) = (residency, Some(held_out(0.4, 3))))
                .unwrap()
        });
        assert_eq!((resident.train.count(), resident.val.count()), (6, 4));
        assert_eq!(streamed.fingerprint(), resident.fingerprint());
        assert_eq!(streamed.val_fingerprint(), resident.val_fingerprint());
        for (split, expected) in [(&streamed.train, &resident.train), (&streamed.val, &resident.val)] {
            let mut images = vec![0; expected.images.len()];
            let numbers: Vec<u32> = (0..split.count() as u32).collect();
            split.streamed.as_ref().unwrap().source.read(&numbers, &mut images).unwrap();
            assert_eq!((&images, &split.labels), (&expected.images, &expected.labels));
        }
    }
}

#[test]
fn a_class_keeps_its_only_image() {
    let folder = tempfile::tempdir().unwrap();
    write_three_splits(folder.path());
    fs::remove_dir_all(folder.path().join("Validation")).unwrap();
    for number in ["3", "5", "7", "9"] {
        fs::remove_file(folder.path().join(format!("train/dog/{number}.png"))).unwrap();
    }
    let set = load_with(folder.path(), |options| options.validation = Some(held_out(0.9, 0))).unwrap();
    assert_eq!((set.train.labels, set.val.labels), (vec![0, 1], vec![0; 4]));
}

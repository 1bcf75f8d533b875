//! MNIST: where its files are found, what is said of missing or mismatched ones, and the real set.

use std::fs;
use std::path::{Path, PathBuf};

use cnn_cuda::data::{self, Dataset};
use cnn_cuda::shape::Shape;
use tempfile::TempDir;

use super::idx::{gzip, idx_file};
use super::{assert_says, data_folder, message, offline};
use crate::support::{Need, skip};

const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// The four files of a set of 2×3 pixels: two images to train on, one to test with.
fn contents() -> [Vec<u8>; 4] {
    [
        idx_file(&[2, 2, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        idx_file(&[2], &[3, 9]),
        idx_file(&[1, 2, 3], &[20, 21, 22, 23, 24, 25]),
        idx_file(&[1], &[0]),
    ]
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A folder with the four files; `place` says where each of the usual names lies, and gives its bytes.
fn folder_with(place: impl Fn(&str, Vec<u8>) -> (PathBuf, Vec<u8>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in NAMES.iter().zip(contents()) {
        let (path, bytes) = place(name, bytes);
        write(&folder.path().join(path), &bytes);
    }
    folder
}

/// The set with one file replaced.
fn folder_with_replaced(index: usize, bytes: &[u8]) -> TempDir {
    let folder = folder_with(|name, bytes| (name.into(), bytes));
    write(&folder.path().join(NAMES[index]), bytes);
    folder
}

fn load(folder: &Path) -> anyhow::Result<Dataset> {
    data::load("mnist", &offline(folder))
}

#[track_caller]
fn assert_loads(folder: &Path) {
    let set = load(folder).unwrap();
    assert_eq!((set.name.as_str(), set.shape, set.classes.len()), ("mnist", Shape::new(2, 3, 1), 10));
    assert_eq!((set.mean, set.std), (vec![0.5], vec![0.5]));
    assert_eq!(set.train.images, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(set.train.labels, [3, 9]);
    assert_eq!(set.test.images, [20, 21, 22, 23, 24, 25]);
    assert_eq!(set.test.labels, [0]);
}

#[test]
fn files_are_found_in_each_of_the_folders() {
    for place in ["", "mnist", "MNIST/raw"] {
        assert_loads(folder_with(|name, bytes| (Path::new(place).join(name), bytes)).path());
    }
}

#[test]
fn fashion_mnist_is_read_from_its_own_folders() {
    for place in ["fashion-mnist", "FashionMNIST/raw"] {
        let folder = folder_with(|name, bytes| (Path::new(place).join(name), bytes));
        let set = data::load("fashion-mnist", &offline(folder.path())).unwrap();
        assert_eq!(
            (set.name.as_str(), set.shape, &set.classes[9]),
            ("fashion-mnist", Shape::new(2, 3, 1), &"Ankle boot".into())
        );
        assert_eq!((set.train.labels, set.test.labels), (vec![3, 9], vec![0]));
        assert_says(&message(load(folder.path())), &["no MNIST files"]);
    }
    // MNIST's files bear the same names: they must not be taken for it.
    let folder = folder_with(|name, bytes| (name.into(), bytes));
    let message = message(data::load("fashion-mnist", &offline(folder.path())));
    let place = folder.path().join("fashion-mnist").display().to_string();
    assert_says(&message, &["no Fashion-MNIST files", &place, "fetch fashion-mnist"]);
}

#[test]
fn gzipped_files_are_found() {
    assert_loads(folder_with(|name, bytes| (format!("mnist/{name}.gz").into(), gzip(&bytes))).path());
}

#[test]
fn dotted_names_are_found() {
    assert_loads(folder_with(|name, bytes| (name.replace("-idx", ".idx").into(), bytes)).path());
    assert_loads(folder_with(|name, bytes| ((name.replace("-idx", ".idx") + ".gz").into(), gzip(&bytes))).path());
}

/// As in archives that hold each file twice, once in a folder of its own.
#[test]
fn a_file_is_preferred_to_a_folder_of_its_name() {
    let folder = folder_with(|name, bytes| (name.replace("-idx", ".idx").into(), bytes));
    fs::create_dir(folder.path().join(NAMES[0])).unwrap();
    assert_loads(folder.path());
}

#[test]
fn a_folder_in_place_of_a_file_is_named() {
    let folder = folder_with(|name, bytes| (name.into(), bytes));
    fs::remove_file(folder.path().join(NAMES[0])).unwrap();
    fs::create_dir(folder.path().join(NAMES[0])).unwrap();
    assert_says(&message(load(folder.path())), &[NAMES[0], "it is a folder"]);
}

#[test]
fn without_files_the_message_says_what_to_put_where() {
    let folder = tempfile::tempdir().unwrap();
    let message = message(load(&folder.path().join("absent")));
    assert_says(&message, &NAMES);
    let place = folder.path().join("absent").join("mnist").display().to_string();
    assert_says(&message, &["there are no MNIST files", &place, "fetch mnist", "--dataset digits"]);
}

#[test]
fn with_some_files_the_message_says_which_are_missing() {
    let folder = folder_with(|name, bytes| (name.into(), bytes));
    fs::remove_file(folder.path().join(NAMES[1])).unwrap();
    fs::remove_file(folder.path().join(NAMES[2])).unwrap();
    let missing = format!("some MNIST files are missing in {}: {}, {};", folder.path().display(), NAMES[1], NAMES[2]);
    assert_says(&message(load(folder.path())), &[&missing, "--dataset digits"]);
}

#[test]
fn a_file_in_place_of_the_folder_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_says(&message(load(file.path())), &[&file.path().display().to_string()]);
}

#[test]
fn counts_that_disagree_name_both_files() {
    let folder = folder_with_replaced(1, &idx_file(&[3], &[1, 2, 3]));
    assert_says(&message(load(folder.path())), &[NAMES[0], "2 images", NAMES[1], "3 labels"]);
}

/// A file of some megabytes can promise two gigabytes. That it ends early must not even be noticed.
#[test]
fn a_wrong_count_is_told_before_a_pixel_is_read() {
    let bytes = idx_file(&[2_097_152, 32, 32], &[1]);
    for bytes in [gzip(&bytes), bytes] {
        let folder = folder_with_replaced(0, &bytes);
        assert_says(&message(load(folder.path())), &[NAMES[0], "2097152 images", NAMES[1], "2 labels"]);
    }
}

#[test]
fn a_label_above_nine_names_its_file_and_index() {
    let folder = folder_with_replaced(1, &idx_file(&[2], &[9, 10]));
    assert_says(&message(load(folder.path())), &[NAMES[1], "number 1 (from 0) is 10"]);
}

#[test]
fn splits_of_different_sizes_name_both_files() {
    let folder = folder_with_replaced(2, &idx_file(&[1, 3, 2], &[0; 6]));
    assert_says(&message(load(folder.path())), &[NAMES[0], "1×2×3", NAMES[2], "1×3×2"]);
}

#[test]
fn images_where_labels_belong_are_refused() {
    let folder = folder_with_replaced(3, &contents()[2]);
    assert_says(&message(load(folder.path())), &[NAMES[3], "3 dimensions where 1 are expected"]);
}

#[test]
fn the_real_set_is_read() {
    let set = match load(&data_folder()) {
        Ok(set) => set,
        Err(error) if format!("{error:#}").contains("MNIST files") => {
            return skip(Need::Mnist, &format!("{error:#}"));
        }
        Err(error) => panic!("{error:#}"),
    };
    assert_eq!(set.shape, Shape::new(28, 28, 1));
    assert_eq!((set.train.count(), set.test.count()), (60_000, 10_000));
    assert_eq!(set.train.labels[..10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]);
    assert_eq!(set.test.labels[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    // The known mean of the training set, 0.1307 of the range.
    let sum: u64 = set.train.images.iter().map(|&pixel| u64::from(pixel)).sum();
    let mean = sum as f64 / set.train.images.len() as f64 / 255.0;
    assert!((mean - 0.1307).abs() < 5e-5, "{mean}");
}

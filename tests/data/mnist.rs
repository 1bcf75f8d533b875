//! MNIST: where its files are found, the errors for missing or mismatched files, and the real data set.

use std::fs;
use std::path::{Path, PathBuf};

use cnn_cuda::data::{self, Dataset};
use cnn_cuda::shape::Shape;
use tempfile::TempDir;

use super::idx::{gzip, idx_file};
use super::{assert_contains, data_folder, message, offline};
use crate::support::{Need, skip};

const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// The four files of a set with images of 2×3 pixels: two for training, one for testing.
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

/// A folder with the four files; `place` maps each standard name and its bytes to the path and bytes to write.
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
fn files_are_found_in_each_standard_folder() {
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
        assert_contains(&message(load(folder.path())), &["no MNIST files"]);
    }
    // MNIST's files have the same names, and must not be mistaken for Fashion-MNIST's.
    let folder = folder_with(|name, bytes| (name.into(), bytes));
    let message = message(data::load("fashion-mnist", &offline(folder.path())));
    let place = folder.path().join("fashion-mnist").display().to_string();
    assert_contains(&message, &["no Fashion-MNIST files", &place, "fetch fashion-mnist"]);
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

/// Some archives hold each file twice, once in a folder named like the file.
#[test]
fn a_file_is_preferred_to_a_folder_of_the_same_name() {
    let folder = folder_with(|name, bytes| (name.replace("-idx", ".idx").into(), bytes));
    fs::create_dir(folder.path().join(NAMES[0])).unwrap();
    assert_loads(folder.path());
}

#[test]
fn the_error_for_a_folder_in_place_of_a_file_names_it() {
    let folder = folder_with(|name, bytes| (name.into(), bytes));
    fs::remove_file(folder.path().join(NAMES[0])).unwrap();
    fs::create_dir(folder.path().join(NAMES[0])).unwrap();
    assert_contains(&message(load(folder.path())), &[NAMES[0], "it is a folder"]);
}

#[test]
fn the_error_for_missing_files_says_what_to_put_where() {
    let folder = tempfile::tempdir().unwrap();
    let message = message(load(&folder.path().join("absent")));
    assert_contains(&message, &NAMES);
    let place = folder.path().join("absent").join("mnist").display().to_string();
    assert_contains(&message, &["there are no MNIST files", &place, "fetch mnist", "--dataset digits"]);
}

#[test]
fn the_error_for_an_incomplete_set_lists_the_missing_files() {
    let folder = folder_with(|name, bytes| (name.into(), bytes));
    fs::remove_file(folder.path().join(NAMES[1])).unwrap();
    fs::remove_file(folder.path().join(NAMES[2])).unwrap();
    let missing = format!("some MNIST files are missing in {}: {}, {};", folder.path().display(), NAMES[1], NAMES[2]);
    assert_contains(&message(load(folder.path())), &[&missing, "--dataset digits"]);
}

#[test]
fn the_error_for_a_file_in_place_of_the_folder_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_contains(&message(load(file.path())), &[&file.path().display().to_string()]);
}

#[test]
fn the_error_for_different_counts_names_both_files() {
    let folder = folder_with_replaced(1, &idx_file(&[3], &[1, 2, 3]));
    assert_contains(&message(load(folder.path())), &[NAMES[0], "2 images", NAMES[1], "3 labels"]);
}

/// A compressed file of a few megabytes can claim two gigabytes. The counts are compared before its pixels are read, so
/// its truncation is not reported.
#[test]
fn a_wrong_count_is_reported_before_any_pixel_is_read() {
    let bytes = idx_file(&[2_097_152, 32, 32], &[1]);
    for bytes in [gzip(&bytes), bytes] {
        let folder = folder_with_replaced(0, &bytes);
        assert_contains(&message(load(folder.path())), &[NAMES[0], "2097152 images", NAMES[1], "2 labels"]);
    }
}

#[test]
fn the_error_for_a_label_above_nine_names_its_file_and_index() {
    let folder = folder_with_replaced(1, &idx_file(&[2], &[9, 10]));
    assert_contains(&message(load(folder.path())), &[NAMES[1], "number 1 (from 0) is 10"]);
}

#[test]
fn the_error_for_different_image_sizes_names_both_files() {
    let folder = folder_with_replaced(2, &idx_file(&[1, 3, 2], &[0; 6]));
    assert_contains(&message(load(folder.path())), &[NAMES[0], "1×2×3", NAMES[2], "1×3×2"]);
}

#[test]
fn images_where_labels_belong_are_refused() {
    let folder = folder_with_replaced(3, &contents()[2]);
    assert_contains(&message(load(folder.path())), &[NAMES[3], "3 dimensions where 1 are expected"]);
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
    // The well-known mean of the training set, as a fraction of the range.
    let sum: u64 = set.train.images.iter().map(|&pixel| u64::from(pixel)).sum();
    let mean = sum as f64 / set.train.images.len() as f64 / 255.0;
    assert!((mean - 0.1307).abs() < 5e-5, "{mean}");
}

/// A few bytes of gzip would expand to gigabytes before anything else is checked.
#[test]
fn images_that_are_too_large_are_refused_by_their_header() {
    let folder = folder_with_replaced(0, &gzip(&idx_file(&[1, 65_535, 65_535], &[])));
    write(&folder.path().join(NAMES[1]), &idx_file(&[1], &[3]));
    let words = [NAMES[0], "65535×65535 (height×width), but at most 4096×4096"];
    assert_contains(&message(load(folder.path())), &words);
    let folder = folder_with_replaced(0, &gzip(&idx_file(&[250, 4096, 4095], &[])));
    write(&folder.path().join(NAMES[1]), &idx_file(&[250], &[3; 250]));
    assert_contains(&message(load(folder.path())), &[NAMES[0], "promises 4193280000 bytes, too many for a gzip file"]);
}

/// `--dataset` takes folders of pictures; that of a built-in set is named.
#[test]
fn the_folder_of_the_set_is_not_taken_for_pictures() {
    let folder = folder_with(|name, bytes| (Path::new("mnist").join(name), bytes));
    for path in [folder.path().to_path_buf(), folder.path().join("mnist")] {
        let error = message(data::load(path.to_str().unwrap(), &offline("unused")));
        let data =
            format!("holds the files of mnist, which are not pictures; use --dataset mnist --data {}", path.display());
        assert_contains(&error, &[path.to_str().unwrap(), &data]);
    }
}

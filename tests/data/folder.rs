//! Folders of pictures: which files are read, in which order and at which size, and the errors for invalid folders.

use std::fs;
use std::path::Path;

use cnn_cuda::data::{self, Dataset, LoadOptions, PictureOptions};
use cnn_cuda::shape::Shape;
use image::ExtendedColorType::{L8, Rgb8};

use super::{assert_contains, message, offline};

/// Writes a 4×4 PNG of one gray level.
pub fn write_gray(path: &Path, level: u8) {
    write_gray_sized(path, level, 4, 4);
}

fn write_gray_sized(path: &Path, level: u8, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::save_buffer(path, &vec![level; (width * height) as usize], width, height, L8).unwrap();
}

pub fn load_with(path: &Path, change: impl FnOnce(&mut LoadOptions)) -> anyhow::Result<Dataset> {
    let mut options = offline("unused");
    change(&mut options);
    data::load(path.to_str().unwrap(), &options)
}

pub fn load(path: &Path) -> anyhow::Result<Dataset> {
    load_with(path, |_| {})
}

/// Writes two classes of pictures, each identified by its gray level.
pub fn write_small_set(root: &Path) {
    for (name, level) in [
        ("train/dog/b.png", 20),
        ("train/dog/a.png", 10),
        ("train/cat/sub/deep.PNG", 30),
        ("train/cat/z.png", 40),
        ("val/cat/1.png", 50),
        ("val/dog/2.png", 60),
    ] {
        write_gray(&root.join(name), level);
    }
}

#[track_caller]
pub fn assert_is_small_set(path: &Path) {
    let set = load(path).unwrap();
    assert_eq!((set.shape, set.classes.clone()), (Shape::new(4, 4, 1), vec!["cat".to_string(), "dog".into()]));
    let levels = |images: &[u8]| images.chunks(16).map(|image| image[0]).collect::<Vec<_>>();
    assert_eq!((levels(&set.train.images), set.train.labels), (vec![30, 40, 10, 20], vec![0, 0, 1, 1]));
    assert_eq!((levels(&set.test.images), set.test.labels), (vec![50, 60], vec![0, 1]));
    // The mean and deviation of 30, 40, 10 and 20.
    assert!((set.mean[0] - 25.0 / 255.0).abs() < 1e-7, "{:?}", set.mean);
    assert!((set.std[0] - 125_f32.sqrt() / 255.0).abs() < 1e-7, "{:?}", set.std);
}

#[test]
fn classes_without_a_test_folder_are_split_by_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    for level in 0..20 {
        write_gray(&folder.path().join(format!("a/{level:02}.png")), level);
        write_gray(&folder.path().join(format!("b/{level:02}.png")), 100 + level);
    }
    write_gray(&folder.path().join("c/only.png"), 200);
    let split = |fraction: f64, seed: u64| {
        let pictures = PictureOptions { test_fraction: fraction, split_seed: seed, ..PictureOptions::default() };
        load_with(folder.path(), |options| options.pictures = pictures).unwrap()
    };
    let set = split(0.25, 0);
    assert_eq!((set.train.count(), set.test.count()), (31, 10));
    let count = |label| set.test.labels.iter().filter(|&&found| found == label).count();
    assert_eq!((count(0), count(1), count(2)), (5, 5, 0));
    let mut levels: Vec<u8> =
        [&set.train.images[..], &set.test.images].concat().chunks(16).map(|image| image[0]).collect();
    levels.sort_unstable();
    assert_eq!(levels, (0..20).chain(100..120).chain([200]).collect::<Vec<u8>>(), "each picture appears once");
    assert_eq!(split(0.25, 0).test.images, set.test.images);
    assert_ne!(split(0.25, 1).test.images, set.test.images);
    // Whatever the fraction, a class of two or more pictures keeps at least one for testing and one for training.
    assert_eq!(split(0.001, 0).test.count(), 2);
    assert_eq!(split(0.999, 0).train.count(), 3);
}

#[test]
fn pictures_are_scaled_and_cropped() {
    let folder = tempfile::tempdir().unwrap();
    // Columns 0, 100, 200, 250: the centre crop from 4×2 to 2×2 keeps the middle two.
    let wide: Vec<u8> = [0, 100, 200, 250].repeat(2);
    for name in ["a/1.png", "b/1.png", "b/2.png"] {
        write_gray(&folder.path().join(name), 9);
        image::save_buffer(folder.path().join(name), &wide, 4, 2, L8).unwrap();
    }
    let sized = |height, width| {
        load_with(folder.path(), |options| options.pictures.image_size = Some((height, width))).unwrap()
    };
    assert_eq!((sized(2, 2).shape, &sized(2, 2).test.images[..4]), (Shape::new(2, 2, 1), &[100, 200, 100, 200][..]));
    // Halved to 2×1 with a triangle filter of width 2: (0·3 + 100·3 + 200·1)/7, and its mirror image.
    assert_eq!(&sized(1, 2).test.images[..2], [71, 207]);
    assert_eq!(&sized(2, 4).test.images[..], wide);
    assert_eq!(sized(8, 8).test.images.len(), 64);
}

#[test]
fn pictures_of_different_sizes_need_an_image_size() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    write_gray_sized(&folder.path().join("train/dog/c.png"), 70, 5, 4);
    // In the order of --image-size.
    let words = "different sizes (height×width): train/dog/c.png is 4×5, others are 4×4";
    assert_contains(&message(load(folder.path())), &[words, "--image-size"]);
    let set = load_with(folder.path(), |options| options.pictures.image_size = Some((4, 4))).unwrap();
    assert_eq!(set.train.images[4 * 16..], [70; 16]);
}

#[test]
fn one_colour_picture_makes_the_whole_set_colour() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    let colour = folder.path().join("train/dog/c.png");
    image::save_buffer(&colour, &[1, 2, 3].repeat(16), 4, 4, Rgb8).unwrap();
    let set = load(folder.path()).unwrap();
    assert_eq!(set.shape, Shape::new(4, 4, 3));
    let first: Vec<&[u8]> = set.train.images.chunks(48).map(|image| &image[..3]).collect();
    assert_eq!(first, [[30; 3], [40; 3], [10; 3], [20; 3], [1, 2, 3]]);
    assert_eq!((set.mean.len(), set.test.images.len()), (3, 2 * 48));
}

#[test]
fn corrupt_pictures_are_skipped_up_to_max_bad() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    let bad = folder.path().join("train/cat/0.jpg");
    fs::write(&bad, b"no picture").unwrap();
    fs::write(folder.path().join("val/dog/1.png"), b"").unwrap();
    let allow = |count| load_with(folder.path(), |options| options.pictures.max_bad = count);
    let words = "2 pictures are corrupt or unreadable (train/cat/0.jpg; val/dog/1.png), more than --max-bad 0 allows";
    assert_contains(&message(allow(0)), &[words]);
    assert_contains(&message(allow(1)), &["more than --max-bad 1"]);
    let set = allow(2).unwrap();
    assert_eq!((set.train.labels, set.test.labels), (vec![0, 0, 1, 1], vec![0, 1]));
    assert_eq!(set.train.images.chunks(16).map(|image| image[0]).collect::<Vec<_>>(), [30, 40, 10, 20]);
}

/// A dangling link stands for a file that the system does not let the program read.
#[cfg(unix)]
#[test]
fn the_error_for_an_unreadable_picture_has_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    std::os::unix::fs::symlink("nowhere", folder.path().join("train/cat/0.png")).unwrap();
    let words = "1 picture is corrupt or unreadable (train/cat/0.png: No such file or directory";
    assert_contains(&message(load(folder.path())), &[words, "--max-bad 0"]);
}

#[test]
fn errors_say_why_a_folder_is_not_a_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(message(load(path)).ends_with("holds no PNG or JPEG pictures"));
    for name in ["a.BMP", "b.webp", "c.bmp", "d.txt", "._e.gif"] {
        fs::write(path.join(name), b"").unwrap();
    }
    let words = "holds no PNG or JPEG pictures, but 3 pictures in other formats (.bmp, .webp); convert them";
    assert_contains(&message(load(path)), &[words]);
    write_gray(&path.join("one/a.png"), 1);
    write_gray(&path.join("one/b.png"), 1);
    assert_contains(&message(load(path)), &["at least two class folders", "one"]);
    write_gray(&path.join("train/two/a.png"), 1);
    write_gray(&path.join("train/three/a.png"), 1);
    write_gray(&path.join("test/four/a.png"), 1);
    assert_contains(&message(load(path)), &["four is not one of the training classes", "three, two"]);
    fs::remove_dir_all(path.join("train")).unwrap();
    fs::remove_dir_all(path.join("one")).unwrap();
    write_gray(&path.join("test/five/a.png"), 1);
    assert_contains(&message(load(path)), &["no folder train/"]);
}

#[test]
fn the_error_for_pictures_without_class_folders_says_where_to_put_them() {
    let folder = tempfile::tempdir().unwrap();
    write_gray(&folder.path().join("set/a.png"), 1);
    write_gray(&folder.path().join("set/b.png"), 2);
    let words = "put the pictures of each class into a folder of its own";
    assert_contains(&message(load(&folder.path().join("set"))), &["cannot use the pictures in", words]);
    write_gray(&folder.path().join("split/train/a.png"), 1);
    assert_contains(&message(load(&folder.path().join("split"))), &[words]);
}

/// For evaluation: labels are indices into the run's classes, and only the test split is decoded.
#[test]
fn the_test_split_can_be_loaded_alone_with_given_classes() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    fs::write(folder.path().join("train/cat/bad.jpg"), b"no picture").unwrap();
    let classes = |names: &[&str]| Some(names.iter().map(|name| (*name).to_string()).collect());
    let test = |names: &[&str]| {
        load_with(folder.path(), |options| {
            options.classes = classes(names);
            options.normalisation = Some((vec![0.25], vec![0.5]));
            options.test_only = true;
        })
    };
    let set = test(&["dog", "bird", "cat"]).unwrap();
    assert_eq!((set.train.count(), set.test.labels, set.mean, set.std), (0, vec![0, 2], vec![0.25], vec![0.5]));
    assert_contains(&message(test(&["dog", "bird"])), &["cat is not one of the training classes"]);
    fs::remove_dir_all(folder.path().join("train")).unwrap();
    assert_eq!(test(&["dog", "cat"]).unwrap().test.count(), 2);
}

#[test]
fn folders_that_are_nested_too_deeply_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    write_gray(&folder.path().join("train/cat").join("deep/".repeat(40)).join("a.png"), 1);
    assert_contains(&message(load(folder.path())), &["train/cat/deep", "more than 32 folders deep"]);
}

#[cfg(unix)]
#[test]
fn symlinks_are_followed_but_cycles_are_refused() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_small_set(elsewhere.path());
    fs::create_dir(folder.path().join("set")).unwrap();
    for part in ["train", "val"] {
        std::os::unix::fs::symlink(elsewhere.path().join(part), folder.path().join("set").join(part)).unwrap();
    }
    assert_is_small_set(&folder.path().join("set"));
    std::os::unix::fs::symlink(folder.path(), folder.path().join("set/loop")).unwrap();
    assert_contains(
        &message(load(&folder.path().join("set"))),
        &["set/loop", "leads back into itself; remove the link"],
    );
}

//! Loads MNIST and Fashion-MNIST, or any other gray images in ten classes that come as the same four files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::mnist_files::{FASHION_MNIST, IdxFile, IdxSet, MNIST};
use super::{Dataset, LoadOptions, MAX_SIDE, Split, fetch, idx};
use crate::shape::Shape;

/// The paths of the four files.
struct Paths {
    train_images: PathBuf,
    train_labels: PathBuf,
    test_images: PathBuf,
    test_labels: PathBuf,
}

pub fn load_mnist(options: &LoadOptions) -> Result<Dataset> {
    load(&MNIST, options)
}

pub fn load_fashion_mnist(options: &LoadOptions) -> Result<Dataset> {
    load(&FASHION_MNIST, options)
}

/// Reads the four files, and first downloads missing ones if the options allow it. The images may have any size. The
/// pixels are normalised to [−1, 1].
fn load(set: &IdxSet, options: &LoadOptions) -> Result<Dataset> {
    let paths = find_or_fetch(set, options)?;
    let class_count = set.classes.len() as u32;
    let (train_shape, train) = read_split(&paths.train_images, &paths.train_labels, class_count)?;
    let (test_shape, test) = read_split(&paths.test_images, &paths.test_labels, class_count)?;
    ensure!(
        train_shape == test_shape,
        "{} holds images of {train_shape}, but {} of {test_shape}; they belong to different data sets",
        paths.train_images.display(),
        paths.test_images.display()
    );
    Ok(Dataset {
        name: set.name.into(),
        shape: train_shape,
        classes: set.classes.map(String::from).to_vec(),
        mean: vec![0.5],
        std: vec![0.5],
        train,
        val: Split::default(),
        test,
    })
}

fn find_or_fetch(set: &IdxSet, options: &LoadOptions) -> Result<Paths> {
    let folder = &options.folder;
    if let Some(paths) = find(set, folder) {
        return Ok(paths);
    }
    let is_missing = |file: &&&IdxFile| set.find(file, folder).is_none();
    let missing: Vec<_> = set.all().iter().filter(is_missing).map(|file| file.name).collect();
    let (title, shown) = (set.title, folder.display());
    if options.download {
        let problem = format!("{shown} lacks {} of {title}", missing.join(", "));
        tracing::info!("{problem}; downloading");
        fetch::fetch(set.name, folder, options.progress).context(problem)?;
        if let Some(paths) = find(set, folder) {
            return Ok(paths);
        }
    }
    let what = if missing.len() == set.all().len() {
        format!("there are no {title} files in {shown}")
    } else {
        format!("some {title} files are missing in {shown}: {}", missing.join(", "))
    };
    bail!("{what}; {}, or {}", fetch::command(set.name, folder), set.by_hand(folder))
}

fn find(set: &IdxSet, folder: &Path) -> Option<Paths> {
    Some(Paths {
        train_images: set.find(&set.files.train_images, folder)?,
        train_labels: set.find(&set.files.train_labels, folder)?,
        test_images: set.find(&set.files.test_images, folder)?,
        test_labels: set.find(&set.files.test_labels, folder)?,
    })
}

fn read_split(images_path: &Path, labels_path: &Path, class_count: u32) -> Result<(Shape, Split)> {
    // The labels are read first: they are small, and their number is the expected number of images.
    let labels = read_labels(labels_path, class_count)?;
    let images = idx::read_checked(images_path, 3, |sizes| {
        ensure!(
            sizes[0] as usize == labels.len(),
            "it holds {} images, but {} holds {} labels; the files do not belong together",
            sizes[0],
            labels_path.display(),
            labels.len()
        );
        ensure!(
            sizes[1..].iter().all(|&side| side as usize <= MAX_SIDE),
            "its images are {}×{} (height×width), but at most {MAX_SIDE}×{MAX_SIDE} is supported",
            sizes[1],
            sizes[2]
        );
        Ok(())
    })?;
    let &[_, height, width] = images.sizes.as_slice() else {
        bail!("{} does not hold images", images_path.display());
    };
    Ok((Shape::new(height, width, 1), Split { images: images.bytes, labels, ..Split::default() }))
}

fn read_labels(path: &Path, class_count: u32) -> Result<Vec<u32>> {
    let labels: Vec<u32> = idx::read(path, 1)?.bytes.into_iter().map(u32::from).collect();
    if let Some(index) = labels.iter().position(|&label| label >= class_count) {
        bail!(
            "{}: label number {index} (from 0) is {}, but labels are 0 to {}",
            path.display(),
            labels[index],
            class_count - 1
        );
    }
    Ok(labels)
}

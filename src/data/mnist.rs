//! MNIST, or any set in its four files: handwritten digits in ten classes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::mnist_files::{self, MnistFile, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS};
use super::{Dataset, LoadOptions, Split, fetch, idx};
use crate::shape::Shape;

const CLASS_COUNT: u32 = 10;

/// Where the four files are.
struct Paths {
    train_images: PathBuf,
    train_labels: PathBuf,
    test_images: PathBuf,
    test_labels: PathBuf,
}

/// Reads the four files, downloading missing ones if the options say so. The images may have any size; pixels are
/// normalised to [−1, 1].
pub fn load(options: &LoadOptions) -> Result<Dataset> {
    let paths = find_or_fetch(options)?;
    let (train_shape, train) = read_split(&paths.train_images, &paths.train_labels)?;
    let (test_shape, test) = read_split(&paths.test_images, &paths.test_labels)?;
    ensure!(
        train_shape == test_shape,
        "{} holds images of {train_shape}, but {} of {test_shape}; they are not of one data set",
        paths.train_images.display(),
        paths.test_images.display()
    );
    Ok(Dataset {
        name: "mnist".into(),
        shape: train_shape,
        classes: (0..CLASS_COUNT).map(|class| class.to_string()).collect(),
        mean: vec![0.5],
        std: vec![0.5],
        train,
        test,
    })
}

fn find_or_fetch(options: &LoadOptions) -> Result<Paths> {
    let folder = &options.folder;
    if let Some(paths) = find(folder) {
        return Ok(paths);
    }
    let is_missing = |file: &&&MnistFile| file.find(folder).is_none();
    let missing: Vec<_> = mnist_files::ALL.iter().filter(is_missing).map(|file| file.name).collect();
    let place = folder.display();
    if options.download {
        let lacking = format!("{place} lacks {} of MNIST", missing.join(", "));
        tracing::info!("{lacking}; downloading");
        fetch::fetch_mnist(folder, options.progress).context(lacking)?;
        if let Some(paths) = find(folder) {
            return Ok(paths);
        }
    }
    let what = if missing.len() == mnist_files::ALL.len() {
        format!("there are no MNIST files in {place}")
    } else {
        format!("some MNIST files are missing in {place}: {}", missing.join(", "))
    };
    bail!("{what}; run `cnn-cuda fetch mnist`, or {}", mnist_files::by_hand(folder))
}

fn find(folder: &Path) -> Option<Paths> {
    Some(Paths {
        train_images: TRAIN_IMAGES.find(folder)?,
        train_labels: TRAIN_LABELS.find(folder)?,
        test_images: TEST_IMAGES.find(folder)?,
        test_labels: TEST_LABELS.find(folder)?,
    })
}

fn read_split(images_path: &Path, labels_path: &Path) -> Result<(Shape, Split)> {
    // Labels first: they are small, and say how many images there have to be.
    let labels = read_labels(labels_path)?;
    let images = idx::read_checked(images_path, 3, |sizes| {
        ensure!(
            sizes[0] as usize == labels.len(),
            "it holds {} images, but {} holds {} labels; they do not belong together",
            sizes[0],
            labels_path.display(),
            labels.len()
        );
        Ok(())
    })?;
    let &[_, height, width] = images.sizes.as_slice() else {
        bail!("{} does not hold images", images_path.display());
    };
    Ok((Shape::new(height, width, 1), Split { images: images.bytes, labels }))
}

fn read_labels(path: &Path) -> Result<Vec<u32>> {
    let labels: Vec<u32> = idx::read(path, 1)?.bytes.into_iter().map(u32::from).collect();
    if let Some(index) = labels.iter().position(|&label| label >= CLASS_COUNT) {
        bail!(
            "{}: label number {index} (from 0) is {}, but labels are 0 to {}",
            path.display(),
            labels[index],
            CLASS_COUNT - 1
        );
    }
    Ok(labels)
}

//! Data sets: u8 images and labels, whole in memory or read as they are needed, by name.

mod archive;
pub mod cifar;
mod crop;
pub mod digits;
pub mod fetch;
pub mod folder;
pub mod idx;
mod ink;
mod mnist;
mod mnist_files;
pub mod picture;
mod records;
pub mod sampler;
mod statistics;
mod streamed;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

pub use folder::PictureOptions;
pub use streamed::{Residency, Streamed};

use cifar::{CIFAR10, CIFAR100};
use fetch::Remote;
use mnist_files::{FASHION_MNIST, MNIST};

use crate::rng;
use crate::shape::Shape;

/// A data set that [`load`] knows by name.
pub struct NamedDataset {
    pub name: &'static str,
    load: fn(&LoadOptions) -> Result<Dataset>,
    /// What there is to download, for a data folder; none where nothing is needed.
    remotes: Option<fn(&Path) -> Vec<Remote>>,
}

/// All data sets that have a name.
pub static TABLE: &[NamedDataset] = &[
    NamedDataset { name: "mnist", load: mnist::load_mnist, remotes: Some(|folder| MNIST.remotes(folder)) },
    NamedDataset {
        name: "fashion-mnist",
        load: mnist::load_fashion_mnist,
        remotes: Some(|folder| FASHION_MNIST.remotes(folder)),
    },
    NamedDataset { name: "cifar10", load: cifar::load_cifar10, remotes: Some(|folder| CIFAR10.remotes(folder)) },
    NamedDataset { name: "cifar100", load: cifar::load_cifar100, remotes: Some(|folder| CIFAR100.remotes(folder)) },
    NamedDataset { name: "digits", load: |_| Ok(digits::generate()), remotes: None },
];

/// The names of all data sets.
pub fn names() -> Vec<&'static str> {
    TABLE.iter().map(|set| set.name).collect()
}

/// The names of those that can be downloaded.
pub fn fetchable() -> Vec<&'static str> {
    TABLE.iter().filter(|set| set.remotes.is_some()).map(|set| set.name).collect()
}

fn find(name: &str) -> Result<&'static NamedDataset> {
    let set = TABLE.iter().find(|set| set.name == name);
    set.with_context(|| format!("there is no data set {name:?}; choose one of: {}", names().join(", ")))
}

/// Where data sets are looked for, what may be done about missing ones, and how they are read.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The folder that holds `mnist/` and the like.
    pub folder: PathBuf,
    /// Download what is missing.
    pub download: bool,
    /// Draw the progress on stderr, where that is a terminal.
    pub progress: bool,
    /// Of folders of pictures.
    pub pictures: PictureOptions,
    /// Mean and standard deviation in place of the set's own.
    pub normalisation: Option<Normalisation>,
    /// The classes to number a folder's by, in place of its own in the order of their names.
    pub classes: Option<Vec<String>>,
    /// The training images may be left out.
    pub test_only: bool,
    /// Where decoded images are to be.
    pub residency: Residency,
}

/// Per channel, the mean and the standard deviation.
pub type Normalisation = (Vec<f32>, Vec<f32>);

/// Whether `--dataset` means a file or folder, as it does wherever it is no data set's name.
pub fn is_path(name: &str) -> bool {
    let path = Path::new(name);
    find(name).is_err() && (path.components().count() > 1 || archive::is_archive(path) || path.exists())
}

/// Reads the data set `name`, one of [`names`], or the pictures at the path of that name, whole into memory.
///
/// # Errors
/// For an unknown name, files that are missing (and cannot be downloaded, or may not be) and files that are not what
/// they should be. The message names the file and the remedy.
pub fn load(name: &str, options: &LoadOptions) -> Result<Dataset> {
    let mut dataset = match is_path(name) {
        true => folder::load(Path::new(name), options)?,
        false => (find(name)?.load)(options)?,
    };
    if let Some(given) = &options.normalisation {
        (dataset.mean, dataset.std) = per_channel(given.clone(), dataset.shape.channels)?;
    }
    let unusable = || format!("the data set {name} is not usable");
    if options.test_only && dataset.train.count() == 0 {
        dataset.validate_but_train().with_context(unusable)?;
    } else {
        dataset.validate().with_context(unusable)?;
    }
    Ok(dataset)
}

/// A normalisation for that many channels: as it is, or one mean and deviation for all.
///
/// # Errors
/// Where there are other numbers of them.
pub fn per_channel((mean, std): Normalisation, channels: usize) -> Result<Normalisation> {
    let fits = |values: &[f32]| values.len() == 1 || values.len() == channels;
    ensure!(
        fits(&mean) && fits(&std),
        "--mean has {} values and --std {}, for images of {channels} channels",
        mean.len(),
        std.len()
    );
    let spread = |values: Vec<f32>| if values.len() == 1 { vec![values[0]; channels] } else { values };
    Ok((spread(mean), spread(std)))
}

/// Images and their labels, in the order of the files.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// `[count][height][width][channels]`
    pub images: Vec<u8>,
    /// `[count]`, each below the number of classes.
    pub labels: Vec<u32>,
    /// Where the images are if they are not in `images`.
    pub streamed: Option<Streamed>,
}

impl Split {
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// A data set as the trainer sees it.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub name: String,
    pub shape: Shape,
    /// One name per class; the index is the label.
    pub classes: Vec<String>,
    /// Per channel: a network's input is `(x / 255 − mean) / std`.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    pub train: Split,
    pub test: Split,
}

impl Dataset {
    /// Checks what every user of a data set relies on, so that no later code needs to.
    ///
    /// # Errors
    /// Where the shape or a split is empty, images and labels disagree in number, a label has no class, or the
    /// normalisation is not one finite mean and one positive, finite standard deviation per channel.
    pub fn validate(&self) -> Result<()> {
        self.validate_split(&self.train).context("in the training split")?;
        self.validate_but_train()
    }

    /// [`Self::validate`] without the training split.
    fn validate_but_train(&self) -> Result<()> {
        ensure!(!self.shape.is_empty(), "its images have no pixels ({})", self.shape);
        let channels = self.shape.channels;
        ensure!(
            self.mean.len() == channels && self.std.len() == channels,
            "it has {} means and {} standard deviations for {channels} channels",
            self.mean.len(),
            self.std.len()
        );
        ensure!(self.mean.iter().all(|mean| mean.is_finite()), "its mean is not finite: {:?}", self.mean);
        // An infinite divisor would blank every image, and a zero one make NaN of it.
        let divides = |std: &f32| std.is_finite() && *std > 0.0;
        ensure!(self.std.iter().all(divides), "its standard deviation is not positive and finite: {:?}", self.std);
        self.validate_split(&self.test).context("in the test split")
    }

    /// Adds classes without images, up to as many as a network has outputs.
    ///
    /// # Errors
    /// The set has more already.
    pub fn widen(&mut self, classes: Option<usize>) -> Result<()> {
        let (wanted, own) = (classes.unwrap_or(0), self.classes.len());
        ensure!(classes.is_none() || own <= wanted, "--classes {wanted} is too few for {}, which has {own}", self.name);
        self.classes.extend((own..wanted).map(|class| format!("class {class}")));
        Ok(())
    }

    /// Tells this set's shape, training images and training labels from any other's, as far as 64 bits do: a run that
    /// goes on with other data than it began with is no longer one run.
    pub fn fingerprint(&self) -> u64 {
        let Shape { height, width, channels } = self.shape;
        let shape: Vec<u8> = [height, width, channels].iter().flat_map(|&side| (side as u64).to_le_bytes()).collect();
        let labels: Vec<u8> = self.train.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let images = self.train.digest(self.shape.len()).to_le_bytes();
        rng::fingerprint([shape.as_slice(), images.as_slice(), &labels])
    }

    fn validate_split(&self, split: &Split) -> Result<()> {
        ensure!(!self.shape.is_empty(), "its images have no pixels ({})", self.shape);
        let count = split.count();
        ensure!(count > 0, "there are no images");
        ensure!(u32::try_from(count).is_ok(), "{count} images are too many; at most {} are supported", u32::MAX);
        let expected = count.checked_mul(self.shape.len());
        ensure!(
            split.streamed.is_some() || expected == Some(split.images.len()),
            "{count} images of {} are not {} bytes",
            self.shape,
            split.images.len()
        );
        for (index, &label) in split.labels.iter().enumerate() {
            ensure!((label as usize) < self.classes.len(), "image {index} has label {label}, which has no class");
        }
        Ok(())
    }
}

//! Data sets of u8 images and labels, looked up by name; images are in memory or streamed.

mod archive;
mod budget;
pub mod cifar;
mod crop;
mod decode;
pub mod digits;
pub mod fetch;
pub mod folder;
mod held_out;
pub mod idx;
mod ink;
mod jpeg;
mod jpeg_scan;
mod member;
mod mnist;
mod mnist_files;
mod partial;
pub mod picture;
pub mod pretrained;
mod records;
pub mod sampler;
pub mod slic;
mod statistics;
mod streamed;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub use folder::{PictureOptions, TrainPictures};
pub use held_out::ValidationOptions;
pub use streamed::{Residency, Streamed};

use cifar::{CIFAR10, CIFAR100};
use fetch::Remote;
use mnist_files::{FASHION_MNIST, MNIST};

use crate::rng;
use crate::shape::Shape;

/// The largest height and width of images.
pub const MAX_SIDE: usize = 4096;

/// A built-in data set, which [`load`] finds by its name.
pub struct NamedDataset {
    pub name: &'static str,
    load: fn(&LoadOptions) -> Result<Dataset>,
    /// The files to download into a data folder; `None` if the set needs no files.
    remotes: Option<fn(&Path) -> Vec<Remote>>,
    /// Finds any of the set's files in a data folder.
    found: fn(&Path) -> Option<PathBuf>,
    /// Finds files of the set in a version that is not read, and says what to do.
    foreign: fn(&Path) -> Option<(PathBuf, String)>,
}

/// All built-in data sets.
pub static TABLE: &[NamedDataset] = &[
    NamedDataset {
        name: "mnist",
        load: mnist::load_mnist,
        remotes: Some(|folder| MNIST.remotes(folder)),
        found: |folder| MNIST.found(folder),
        foreign: |_| None,
    },
    NamedDataset {
        name: "fashion-mnist",
        load: mnist::load_fashion_mnist,
        remotes: Some(|folder| FASHION_MNIST.remotes(folder)),
        found: |folder| FASHION_MNIST.found(folder),
        foreign: |_| None,
    },
    NamedDataset {
        name: "cifar10",
        load: cifar::load_cifar10,
        remotes: Some(|folder| CIFAR10.remotes(folder)),
        found: |folder| CIFAR10.found(folder),
        foreign: |folder| CIFAR10.foreign(folder),
    },
    NamedDataset {
        name: "cifar100",
        load: cifar::load_cifar100,
        remotes: Some(|folder| CIFAR100.remotes(folder)),
        found: |folder| CIFAR100.found(folder),
        foreign: |folder| CIFAR100.foreign(folder),
    },
    NamedDataset {
        name: "digits",
        load: |_| Ok(digits::generate()),
        remotes: None,
        found: |_| None,
        foreign: |_| None,
    },
];

/// The names of all built-in data sets.
pub fn names() -> Vec<&'static str> {
    TABLE.iter().map(|set| set.name).collect()
}

/// The names of the data sets that can be downloaded.
pub fn fetchable() -> Vec<&'static str> {
    TABLE.iter().filter(|set| set.remotes.is_some()).map(|set| set.name).collect()
}

fn find(name: &str) -> Result<&'static NamedDataset> {
    let set = TABLE.iter().find(|set| set.name == name);
    set.with_context(|| format!("unknown data set {name:?}; choose one of: {}", names().join(", ")))
}

/// Where to look for data sets, whether to download missing ones, and how to read them.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The data folder, which holds `mnist/`, `cifar10/` and so on.
    pub folder: PathBuf,
    /// Download missing files.
    pub download: bool,
    /// Draw a progress bar on stderr if it is a terminal.
    pub progress: bool,
    /// How to read folders of pictures.
    pub pictures: PictureOptions,
    /// Overrides the data set's own mean and standard deviation.
    pub normalisation: Option<Normalisation>,
    /// Class names in label order, for a folder of pictures. By default its class folders, sorted by name.
    pub classes: Option<Vec<String>>,
    /// The channels of a folder's images, 1 or 3, to which all pictures are converted. By default 1 if all training
    /// pictures are gray, else 3.
    pub channels: Option<usize>,
    /// Holds out training images for validation.
    pub validation: Option<ValidationOptions>,
    /// Only the test split is needed; the other images may be left out.
    pub test_only: bool,
    /// Where to keep decoded images.
    pub residency: Residency,
    /// Replaces each of about so many segments of an image by its mean colour.
    pub segments: Option<usize>,
}

/// Mean and standard deviation, one value per channel.
pub type Normalisation = (Vec<f32>, Vec<f32>);

/// Whether the argument of `--dataset` is a path to a file or folder. The names of data sets take precedence.
pub fn is_path(name: &str) -> bool {
    let path = Path::new(name);
    find(name).is_err() && (path.components().count() > 1 || archive::is_archive(path) || path.exists())
}

/// Loads the data set `name`: one of [`names`], or the path of a folder or archive of pictures.
///
/// ```
/// use cnn_cuda::data;
///
/// # fn main() -> anyhow::Result<()> {
/// let digits = data::load("digits", &data::LoadOptions::default())?;
/// assert_eq!((digits.shape.height, digits.shape.width, digits.classes.len()), (28, 28, 10));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the name is unknown, files are missing (and cannot or may not be downloaded) or files are invalid. The message
/// names the file and the remedy.
pub fn load(name: &str, options: &LoadOptions) -> Result<Dataset> {
    let path = Path::new(name);
    let mut dataset = if is_path(name) {
        // Files of a built-in set explain why there are no pictures.
        folder::load(path, options).map_err(|error| refuse_named_set(path).err().unwrap_or(error))?
    } else {
        if path.is_dir() {
            tracing::info!("{name} is the built-in data set; for the folder of that name, write ./{name}");
        }
        (find(name)?.load)(options)?
    };
    // A folder whose training images have a shape of their own has held out the others already.
    let is_apart = dataset.train.shape.is_some();
    if let (Some(validation), false) = (options.validation, options.test_only || is_apart) {
        dataset.hold_out_validation(validation)?;
    }
    if let Some(given) = &options.normalisation {
        (dataset.mean, dataset.std) = per_channel(given.clone(), dataset.shape.channels)?;
    }
    let unusable = || format!("the data set {name} cannot be used");
    if options.test_only && dataset.train.count() == 0 {
        dataset.validate_without_train().with_context(unusable)?;
    } else {
        dataset.validate().with_context(unusable)?;
    }
    if let Some(count) = options.segments {
        dataset.average_segments(count)?;
    }
    Ok(dataset)
}

/// # Errors
/// If the folder or archive holds the files of a built-in set, which are no pictures.
fn refuse_named_set(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for set in TABLE {
        for folder in [path, parent] {
            let found = (set.found)(folder).filter(|file| file.starts_with(path));
            ensure!(
                found.is_none(),
                "{} holds the files of {name}, which are not pictures; use --dataset {name} --data {}",
                path.display(),
                folder.display(),
                name = set.name
            );
            if let Some((file, reason)) = (set.foreign)(folder)
                && file.starts_with(path)
            {
                bail!("{reason} and use --dataset {} --data {}", set.name, folder.display());
            }
        }
    }
    Ok(())
}

/// Expands a normalisation to `channels` channels: a single mean or deviation applies to all of them.
///
/// # Errors
/// If there is neither one value nor one value per channel.
pub fn per_channel((mean, std): Normalisation, channels: usize) -> Result<Normalisation> {
    let fits = |values: &[f32]| values.len() == 1 || values.len() == channels;
    ensure!(
        fits(&mean) && fits(&std),
        "the mean has {} and the standard deviation {}, but the images have {}",
        counted(mean.len(), "value"),
        std.len(),
        counted(channels, "channel")
    );
    let broadcast = |values: Vec<f32>| if values.len() == 1 { vec![values[0]; channels] } else { values };
    Ok((broadcast(mean), broadcast(std)))
}

/// A count with its noun, such as `1 picture` or `2 pictures`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Images and their labels, in the order of the files.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// `[count][height][width][channels]`
    pub images: Vec<u8>,
    /// `[count]`; every label is less than the number of classes.
    pub labels: Vec<u32>,
    /// The source of the images if they are not in `images`.
    pub streamed: Option<Streamed>,
    /// The shape of the images, if it is not that of the data set.
    pub shape: Option<Shape>,
}

impl Split {
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// A data set, ready for training.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub name: String,
    pub shape: Shape,
    /// One name per class; the index is the label.
    pub classes: Vec<String>,
    /// One value per channel. The network's input is `(x / 255 − mean) / std`.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    pub train: Split,
    /// For choosing among epochs and settings; empty if there are none.
    pub val: Split,
    pub test: Split,
}

impl Dataset {
    /// Checks the invariants of a data set, so that later code can rely on them.
    ///
    /// # Errors
    /// If the shape or a split is empty, the numbers of images and labels differ, a label has no class, or the
    /// normalisation is not one finite mean and one positive, finite standard deviation per channel.
    pub fn validate(&self) -> Result<()> {
        self.validate_split(&self.train).context("in the training split")?;
        if self.val.count() > 0 {
            self.validate_split(&self.val).context("in the validation split")?;
        }
        self.validate_without_train()
    }

    /// Like [`Self::validate`], but ignores the training split.
    fn validate_without_train(&self) -> Result<()> {
        ensure!(!self.shape.is_empty(), "its images have no pixels ({})", self.shape);
        let channels = self.shape.channels;
        ensure!(
            self.mean.len() == channels && self.std.len() == channels,
            "it has {} means and {} standard deviations for {channels} channels",
            self.mean.len(),
            self.std.len()
        );
        ensure!(self.mean.iter().all(|mean| mean.is_finite()), "its mean is not finite: {:?}", self.mean);
        // Dividing by infinity would make every pixel 0; dividing by zero would produce NaN.
        let is_valid = |std: &f32| std.is_finite() && *std > 0.0;
        ensure!(self.std.iter().all(is_valid), "its standard deviation is not positive and finite: {:?}", self.std);
        self.validate_split(&self.test).context("in the test split")
    }

    /// Adds classes without images until there are `classes`, the number of the network's outputs.
    ///
    /// # Errors
    /// If the set already has more classes.
    pub fn pad_classes(&mut self, classes: Option<usize>) -> Result<()> {
        let (target, own) = (classes.unwrap_or(0), self.classes.len());
        ensure!(classes.is_none() || own <= target, "--classes {target} is too few for {}, which has {own}", self.name);
        self.classes.extend((own..target).map(|class| format!("class {class}")));
        Ok(())
    }

    /// A 64-bit hash of the shape, the training images and the training labels. A resumed run compares it to make sure
    /// that its data has not changed.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint_of(&self.train)
    }

    /// The same for the validation images and labels; 0 if there are none.
    pub fn val_fingerprint(&self) -> u64 {
        if self.val.count() == 0 { 0 } else { self.fingerprint_of(&self.val) }
    }

    /// The same for the test images and labels.
    pub fn test_fingerprint(&self) -> u64 {
        self.fingerprint_of(&self.test)
    }

    fn fingerprint_of(&self, split: &Split) -> u64 {
        let own = split.shape.unwrap_or(self.shape);
        let Shape { height, width, channels } = own;
        let shape: Vec<u8> = [height, width, channels].iter().flat_map(|&side| (side as u64).to_le_bytes()).collect();
        let labels: Vec<u8> = split.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let images = split.digest(own.len()).to_le_bytes();
        rng::fingerprint([shape.as_slice(), images.as_slice(), &labels])
    }

    fn validate_split(&self, split: &Split) -> Result<()> {
        ensure!(!self.shape.is_empty(), "its images have no pixels ({})", self.shape);
        let count = split.count();
        ensure!(count > 0, "there are no images");
        ensure!(u32::try_from(count).is_ok(), "{count} images are too many; at most {} are supported", u32::MAX);
        let shape = split.shape.unwrap_or(self.shape);
        let expected = count.checked_mul(shape.len());
        ensure!(
            split.streamed.is_some() || expected == Some(split.images.len()),
            "{count} images of {shape} do not have {} bytes",
            split.images.len()
        );
        for (index, &label) in split.labels.iter().enumerate() {
            ensure!((label as usize) < self.classes.len(), "image {index} has label {label}, which has no class");
        }
        Ok(())
    }
}

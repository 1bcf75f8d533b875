//! The data set, and how its images are read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ImageSize, bounds, suggestion, usage};
use crate::data::{self, Normalisation, PictureOptions, ValidationOptions};

/// Settings of this group that may change when a run is resumed.
pub(super) const CHANGEABLE: &[&str] = &["data"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `digits` (built in, needs no files), or the path of a folder or
    /// tar archive (.tar, .tar.gz, .tar.xz) with one folder of pictures per class, either directly or in train/ and
    /// test/ (or training/, testing/, val/, validation/ and the like); val/ beside test/ is for validation
    #[arg(long, value_name = "NAME|PATH", default_value = "mnist")]
    pub dataset: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub folder: DataFolder,
    /// Number of network outputs, if more than the data set has classes
    #[arg(long, value_name = "N", value_parser = bounds::classes, allow_negative_numbers = true)]
    pub classes: Option<usize>,
    /// Fraction of every class's training images to validate with instead of training on them; `--monitor` chooses the
    /// best epoch by them
    #[arg(long, value_name = "X", value_parser = bounds::fraction, allow_negative_numbers = true)]
    pub val_fraction: Option<f64>,
    /// Random seed for choosing those validation images [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub val_seed: Option<u32>,
    #[command(flatten)]
    #[serde(flatten)]
    pub normalisation: NormalisationSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub segmentation: SegmentationSettings,
}

impl DataSettings {
    /// Which training images to validate with; `None` without `--val-fraction`.
    pub fn validation(&self) -> Option<ValidationOptions> {
        let seed = self.val_seed.unwrap_or_default().into();
        self.val_fraction.map(|fraction| ValidationOptions { fraction, seed })
    }

    /// # Errors
    /// `--val-seed` without `--val-fraction`.
    pub fn check(&self) -> Result<()> {
        let needed = self.val_fraction.is_some() || self.val_seed.is_none();
        usage(needed, || "--val-seed chooses the images of --val-fraction, which is not given".into())
    }
}

/// Where data sets are stored.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct DataFolder {
    /// Folder of the data sets, which contains `mnist/` and so on [default: $CNN_CUDA_DATA, or data]
    #[arg(long, value_name = "DIR", default_value = default_folder().into_os_string(), hide_default_value = true)]
    pub data: Option<PathBuf>,
}

/// How pixel values are normalised: `(x / 255 - mean) / std`, as torchvision's `Normalize` does after `ToTensor`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct NormalisationSettings {
    /// Mean that is subtracted from x / 255: one for all channels or one per channel, such as 0.49,0.48,0.45 [default:
    /// the data set's own; for a folder, that of its training pictures]
    #[arg(long, value_name = "X,…", value_delimiter = ',', value_parser = bounds::finite, requires = "std", allow_negative_numbers = true)]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation to divide by, in the same form
    #[arg(long, value_name = "X,…", value_delimiter = ',', value_parser = bounds::above_zero, requires = "mean", allow_negative_numbers = true)]
    pub std: Option<Vec<f32>>,
}

/// How images are divided into segments.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct SegmentationSettings {
    /// Divide every image into about N superpixels (SLIC), and replace each of them by its mean colour before the network
    /// and all augmentation [default: none]
    #[arg(long, value_name = "N", value_parser = bounds::segment_count, allow_negative_numbers = true)]
    pub superpixels: Option<usize>,
}

impl SegmentationSettings {
    /// The number of segments that is given, else that of a run.
    pub fn given_or(&self, run: Option<&Self>) -> Option<usize> {
        self.superpixels.or_else(|| run?.superpixels)
    }
}

/// How a folder of pictures is read.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct PictureSettings {
    /// Scale and crop a folder's pictures to N × N, or to HEIGHTxWIDTH [default: their size, if all have the same]
    #[arg(long, value_name = "N")]
    pub image_size: Option<ImageSize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub crop: CropSettings,
    /// Fraction of a folder's pictures to test with, if it has no test/ or val/
    #[arg(long, value_name = "X", value_parser = bounds::fraction, default_value = "0.1", allow_negative_numbers = true)]
    pub test_fraction: Option<f64>,
    /// Random seed for choosing those test pictures
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub split_seed: Option<u32>,
    /// Number of corrupt pictures in a folder to report and skip; more are an error
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub max_bad: Option<usize>,
}

/// The arguments that say how images were split, which the weights of a run record.
pub const SPLITTING: [&str; 3] = ["test_fraction", "split_seed", "val_seed"];

/// How pictures to evaluate are cropped.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct CropSettings {
    /// Scale the shorter side of pictures to evaluate to the image size divided by X and crop the centre, as timm does;
    /// most of torchvision's weights want 0.875, which is 256 for 224 [default: 1]
    #[arg(long, value_name = "X", value_parser = bounds::part, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f64>,
}

fn default_folder() -> PathBuf {
    let environment = std::env::var_os("CNN_CUDA_DATA").filter(|value| !value.is_empty());
    environment.map_or_else(|| "data".into(), PathBuf::from)
}

impl DataFolder {
    pub fn folder(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(default_folder)
    }
}

impl NormalisationSettings {
    pub fn given(&self) -> Option<Normalisation> {
        Some((self.mean.clone()?, self.std.clone()?))
    }
}

impl CropSettings {
    pub fn given(&self) -> Option<f64> {
        self.crop_pct
    }
}

impl PictureSettings {
    pub fn resolve(&self) -> PictureOptions {
        self.resolve_with(PictureOptions::default())
    }

    /// The options that are set; the others are those of `fallback`.
    pub fn resolve_with(&self, fallback: PictureOptions) -> PictureOptions {
        PictureOptions {
            image_size: self.image_size.map(|size| (size.height, size.width)).or(fallback.image_size),
            crop: self.crop.given().unwrap_or(fallback.crop),
            train: fallback.train,
            test_fraction: self.test_fraction.unwrap_or(fallback.test_fraction),
            split_seed: self.split_seed.map_or(fallback.split_seed, u64::from),
            max_bad: self.max_bad.unwrap_or(fallback.max_bad),
        }
    }

    /// The options that decide which pictures are test pictures.
    pub fn split(&self) -> Self {
        Self { test_fraction: self.test_fraction, split_seed: self.split_seed, ..Self::default() }
    }

    /// # Errors
    /// An option is given for a data set that is not a folder of pictures.
    pub fn check(&self, dataset: &str) -> Result<()> {
        let given = *self != Self::default();
        usage(!given || data::is_path(dataset), || {
            format!(
                "--image-size, --crop-pct, --test-fraction, --split-seed and --max-bad, and the section [pictures] of a \
                 recipe, are for folders of pictures, not for {dataset}"
            )
        })
    }
}

/// Checks that a data set exists, without reading or downloading it.
///
/// # Errors
/// There is no data set, folder or archive of that name.
pub fn check_dataset(name: &str) -> Result<()> {
    let path = data::is_path(name);
    usage(path || data::names().contains(&name), || {
        let (names, meant) = (data::names(), suggestion(name, data::names()));
        let names = names.join(", ");
        format!(
            "there is no data set {name:?}; --dataset takes one of: {names}, or the path of a folder or archive{meant}"
        )
    })?;
    ensure!(!path || Path::new(name).exists(), "--dataset {name}: there is no such file or folder");
    Ok(())
}

/// A data set's name, or its path made absolute so that it stays valid in another working directory.
pub fn absolute(dataset: &str) -> Result<String> {
    if !data::is_path(dataset) {
        return Ok(dataset.into());
    }
    let path = absolute_path(Path::new(dataset))?;
    let text = path.to_str().with_context(|| format!("--dataset {dataset}: the path is not UTF-8"))?;
    Ok(text.into())
}

/// Makes a path absolute.
pub fn absolute_path(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {} an absolute path", path.display()))
}

/// A short name for folders and titles: the last component of a path, without an archive's extension.
pub fn short_name(dataset: &str) -> String {
    let name = Path::new(dataset).file_name().map_or("pictures".into(), |name| name.to_string_lossy());
    let extensions = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"];
    let stem = extensions.iter().find_map(|extension| name.strip_suffix(extension));
    stem.unwrap_or(&name).to_string()
}

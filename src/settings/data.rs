//! Which images, and how they are read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ImageSize, bounds, usage};
use crate::data::{self, Normalisation, PictureOptions};

/// What a resumed run may change of these.
pub(super) const CHANGEABLE: &[&str] = &["data"];

#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `digits` (built in, needs no files), or the path of a folder or
    /// tar archive (.tar, .tar.gz, .tar.xz) that holds a folder of pictures per class, in train/ and test/, val/, valid/ or validation/ or
    /// in one; eval prefers that of the weights' run
    #[arg(long, value_name = "NAME|PATH", default_value = "mnist")]
    pub dataset: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub folder: DataFolder,
    /// Outputs of the network, if it should have more than the data set has classes
    #[arg(long, value_name = "N", value_parser = bounds::classes, allow_negative_numbers = true)]
    pub classes: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub normalisation: NormalisationSettings,
}

/// Where data sets are found.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct DataFolder {
    /// Folder that holds `mnist/` and the like [default: the environment's CNN_CUDA_DATA, or data]
    #[arg(long, value_name = "DIR", default_value = standard_folder().into_os_string(), hide_default_value = true)]
    pub data: Option<PathBuf>,
}

/// How the bytes of an image become the network's input.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct NormalisationSettings {
    /// Mean of x / 255 that is subtracted: one for all channels, or one for each, such as 0.49,0.48,0.45 [default: the data
    /// set's own; of a folder, that of its training pictures; predict: that of the weights' run, else 0.5]
    #[arg(long, value_name = "X,…", value_delimiter = ',', value_parser = bounds::finite, requires = "std", allow_negative_numbers = true)]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation that is divided by, in the same form
    #[arg(long, value_name = "X,…", value_delimiter = ',', value_parser = bounds::above_zero, requires = "mean", allow_negative_numbers = true)]
    pub std: Option<Vec<f32>>,
}

/// How a folder of pictures is read.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct PictureSettings {
    /// Side, or HEIGHTxWIDTH, that pictures of a folder are scaled and cropped to [default: theirs, where all are the same]
    #[arg(long, value_name = "N")]
    pub image_size: Option<ImageSize>,
    /// Part of a folder's pictures to test with, where it has no test/ or val/
    #[arg(long, value_name = "X", value_parser = bounds::fraction, default_value = "0.1", allow_negative_numbers = true)]
    pub test_fraction: Option<f64>,
    /// Seed of the choice of those pictures
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub split_seed: Option<u32>,
    /// Corrupt pictures of a folder to list and skip; more are an error
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub max_bad: Option<usize>,
}

fn standard_folder() -> PathBuf {
    let environment = std::env::var_os("CNN_CUDA_DATA").filter(|value| !value.is_empty());
    environment.map_or_else(|| "data".into(), PathBuf::from)
}

impl DataFolder {
    pub fn folder(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(standard_folder)
    }
}

impl NormalisationSettings {
    pub fn given(&self) -> Option<Normalisation> {
        Some((self.mean.clone()?, self.std.clone()?))
    }
}

impl PictureSettings {
    pub fn resolve(&self) -> PictureOptions {
        self.over(PictureOptions::default())
    }

    /// What is set, over what is so otherwise.
    pub fn over(&self, otherwise: PictureOptions) -> PictureOptions {
        PictureOptions {
            image_size: self.image_size.map(|size| (size.height, size.width)).or(otherwise.image_size),
            test_fraction: self.test_fraction.unwrap_or(otherwise.test_fraction),
            split_seed: self.split_seed.map_or(otherwise.split_seed, u64::from),
            max_bad: self.max_bad.unwrap_or(otherwise.max_bad),
        }
    }

    /// # Errors
    /// A flag is given that means nothing for this data set.
    pub fn check(&self, dataset: &str) -> Result<()> {
        let given = *self != Self::default();
        usage(!given || data::is_path(dataset), || {
            format!(
                "--image-size, --test-fraction, --split-seed and --max-bad are for folders of pictures; {dataset} is read as it is"
            )
        })
    }
}

/// # Errors
/// There is no such data set; nothing is read or downloaded to find that out.
pub fn check_dataset(name: &str) -> Result<()> {
    let path = data::is_path(name);
    usage(path || data::names().contains(&name), || {
        let names = data::names().join(", ");
        format!("there is no data set {name:?}; --dataset takes one of: {names}, or the path of a folder or archive")
    })?;
    ensure!(!path || Path::new(name).exists(), "--dataset {name}: there is no such file or folder");
    Ok(())
}

/// The data set's name, or its path in a form that means the same from another folder.
pub fn absolute(dataset: &str) -> Result<String> {
    if !data::is_path(dataset) {
        return Ok(dataset.into());
    }
    let path = absolute_path(Path::new(dataset))?;
    let text = path.to_str().with_context(|| format!("--dataset {dataset}: the path is not UTF-8"))?;
    Ok(text.into())
}

/// A path that means the same from another folder.
pub fn absolute_path(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot tell where {} is", path.display()))
}

/// A short name for folders and titles: a path's last part, without an archive's ending.
pub fn short_name(dataset: &str) -> String {
    let name = Path::new(dataset).file_name().map_or("pictures".into(), |name| name.to_string_lossy());
    let endings = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"];
    let stem = endings.iter().find_map(|ending| name.strip_suffix(ending));
    stem.unwrap_or(&name).to_string()
}

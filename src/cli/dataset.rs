//! The flags that say which data set, and how it is read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{DataArgs, flags, usage};
use crate::data::{self, Dataset, Normalisation, PictureOptions};

#[derive(Args, Clone)]
pub struct DatasetArgs {
    /// `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `digits` (built in, needs no files), or the path of a folder or
    /// tar archive (.tar, .tar.gz, .tar.xz) that holds a folder of pictures per class, in train/ and test/ or val/ or
    /// in one [default: mnist; eval: that of the weights' run]
    #[arg(long, value_name = "NAME|PATH")]
    pub dataset: Option<String>,
    #[command(flatten)]
    pub folder: DataArgs,
    /// Outputs of the network, where they shall be more than the data set's classes
    #[arg(long, value_name = "N", value_parser = flags::classes, allow_negative_numbers = true)]
    pub classes: Option<usize>,
    /// Side, or HEIGHTxWIDTH, that pictures of a folder are scaled and cropped to [default: theirs, where it is the same]
    #[arg(long, value_name = "N", value_parser = flags::image_size)]
    pub image_size: Option<(usize, usize)>,
    #[command(flatten)]
    pub normalisation: NormalisationArgs,
    /// Part of a folder's pictures to test with, where it has no test/ or val/ [default: 0.1]
    #[arg(long, value_name = "X", value_parser = flags::fraction, allow_negative_numbers = true)]
    pub test_fraction: Option<f64>,
    /// Decides which pictures those are [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub split_seed: Option<u32>,
    /// Corrupt pictures of a folder to list and skip; more are an error [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_bad: Option<usize>,
}

/// What brings bytes to a network's range.
#[derive(Args, Clone)]
pub struct NormalisationArgs {
    /// Mean of x / 255 that is subtracted: one for all channels, or one for each, as 0.49,0.48,0.45 [default: the data
    /// set's; of a folder's training pictures]
    #[arg(long, value_name = "X,…", value_delimiter = ',', value_parser = flags::finite, requires = "std", allow_negative_numbers = true)]
    mean: Option<Vec<f32>>,
    /// Standard deviation that is divided by, likewise
    #[arg(long, value_name = "X,…", value_delimiter = ',', value_parser = flags::above_zero, requires = "mean", allow_negative_numbers = true)]
    std: Option<Vec<f32>>,
}

impl NormalisationArgs {
    pub fn given(&self) -> Option<Normalisation> {
        Some((self.mean.clone()?, self.std.clone()?))
    }
}

impl DatasetArgs {
    /// How pictures are read: by the flags, else as `otherwise` says.
    pub fn pictures(&self, otherwise: &PictureOptions) -> PictureOptions {
        PictureOptions {
            image_size: self.image_size.or(otherwise.image_size),
            test_fraction: self.test_fraction.unwrap_or(otherwise.test_fraction),
            split_seed: self.split_seed.map_or(otherwise.split_seed, u64::from),
            max_bad: self.max_bad.unwrap_or(otherwise.max_bad),
        }
    }

    /// An error where a flag is given that means nothing for this data set.
    pub fn check(&self, dataset: &str) -> Result<()> {
        check_dataset(dataset)?;
        let given = [
            ("--image-size", self.image_size.is_some()),
            ("--test-fraction", self.test_fraction.is_some()),
            ("--split-seed", self.split_seed.is_some()),
            ("--max-bad", self.max_bad.is_some()),
        ];
        let wrong = given.iter().find(|(_, given)| *given && !data::is_path(dataset));
        usage(wrong.is_none(), || {
            let flag = wrong.map_or("", |(flag, _)| flag);
            format!("{flag} is for folders of pictures; {dataset} is read as it is")
        })
    }
}

/// An error where there is no such data set, before anything is read or downloaded.
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

/// Gives a data set as many classes as the network has outputs.
///
/// # Errors
/// Where it has more already.
pub fn widen(dataset: &mut Dataset, classes: Option<usize>) -> Result<()> {
    let (wanted, own) = (classes.unwrap_or(0), dataset.classes.len());
    let fits = classes.is_none() || own <= wanted;
    usage(fits, || format!("--classes {wanted} is too few for {}, which has {own}", dataset.name))?;
    dataset.classes.extend((own..wanted).map(|class| format!("class {class}")));
    Ok(())
}

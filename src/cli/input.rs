//! What `config.toml` says of the data: how a folder of pictures is read, and what the network was made for.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::config::{self, Config};
use super::dataset::{self, DatasetArgs, absolute_path};
use super::resume::unchanged;
use crate::data::{self, Dataset, LoadOptions, Normalisation, PictureOptions};
use crate::shape::Shape;

/// More is no configuration, whatever its name.
const MAX_BYTES: u64 = 16 << 20;

/// [`PictureOptions`] in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PictureConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_size: Option<(usize, usize)>,
    test_fraction: f64,
    split_seed: u32,
    max_bad: usize,
}

/// What a network was made for: its input, how bytes become that, and the names of its outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InputConfig {
    channels: usize,
    height: usize,
    width: usize,
    mean: Vec<f32>,
    std: Vec<f32>,
    pub classes: Vec<String>,
}

impl Config {
    /// Puts the data flags over what a recipe says. What a recipe says of the data it was made for goes where a flag
    /// means other data, or reads it otherwise.
    pub fn apply_data(&mut self, args: &DatasetArgs) -> Result<()> {
        let named = args.dataset.clone().unwrap_or_else(|| self.dataset.clone());
        args.check(&named)?;
        let (dataset, before) = (dataset::absolute(&named)?, self.pictures());
        if let Some(folder) = &args.folder.data {
            self.data = absolute_path(folder)?;
        }
        let otherwise = if dataset == self.dataset { before.clone() } else { PictureOptions::default() };
        let pictures = args.pictures(&otherwise);
        let read_otherwise = args.normalisation.given().is_some() || args.classes.is_some() || pictures != before;
        if dataset != self.dataset || read_otherwise {
            self.input = None;
        }
        self.pictures = data::is_path(&dataset).then(|| PictureConfig::new(&pictures));
        self.dataset = dataset;
        Ok(())
    }

    /// Checks the data flags against the run. The files may have moved: the training data's fingerprint is compared
    /// when the checkpoint is read.
    pub fn resume_dataset(&mut self, args: &DatasetArgs) -> Result<()> {
        if let Some(given) = &args.dataset {
            let moved = data::is_path(given) && self.pictures.is_some();
            let given = dataset::absolute(given)?;
            if moved {
                self.dataset = given;
            } else {
                unchanged("--dataset", Some(&given), &self.dataset)?;
            }
        }
        if let Some(folder) = &args.folder.data {
            self.data = absolute_path(folder)?;
        }
        dataset::check_dataset(&self.dataset)?;
        let otherwise = self.pictures();
        let changed = args.normalisation.given().is_some() || args.pictures(&otherwise) != otherwise;
        ensure!(!changed, "the run to resume reads its pictures as it began; start a new run to change that");
        let classes = self.input.as_ref().map(|input| input.classes.len());
        unchanged("--classes", args.classes.as_ref(), &classes.unwrap_or(0))
    }

    /// How pictures are read.
    pub fn pictures(&self) -> PictureOptions {
        self.pictures.as_ref().map_or_else(PictureOptions::default, PictureConfig::options)
    }

    /// What it takes to read the data set as the run does: what it began with goes before what is there now.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            folder: self.data.clone(),
            download: true,
            progress: true,
            pictures: self.pictures(),
            normalisation: self.input.as_ref().map(InputConfig::normalisation),
            classes: self.input.as_ref().map(|input| input.classes.clone()),
            test_only: false,
            residency: self.residency.of_data(),
        }
    }

    /// The configuration beside weights that a run of this program left; none where they are from elsewhere.
    pub fn beside(weights: &Path) -> Option<Self> {
        let path = weights.parent()?.join(config::FILE);
        let metadata = std::fs::metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return None;
        }
        let text = std::fs::read_to_string(&path).map_err(anyhow::Error::from);
        let parsed = text.and_then(|text| Ok(toml::from_str::<Self>(&text)?));
        match parsed.and_then(|config| config.check().map(|()| config)) {
            Ok(config) => Some(config),
            Err(error) => {
                tracing::warn!("{} is not that of a run, and not used: {error:#}", path.display());
                None
            }
        }
    }
}

impl PictureConfig {
    pub fn new(options: &PictureOptions) -> Self {
        let PictureOptions { image_size, test_fraction, split_seed, max_bad } = *options;
        Self { image_size, test_fraction, split_seed: split_seed as u32, max_bad }
    }

    pub fn options(&self) -> PictureOptions {
        let Self { image_size, test_fraction, split_seed, max_bad } = *self;
        PictureOptions { image_size, test_fraction, split_seed: u64::from(split_seed), max_bad }
    }

    /// What the flags' parsers check, for values that come from a file.
    pub fn check(&self) -> Result<()> {
        let side = |side: &usize| (1..=4096).contains(side);
        ensure!(self.image_size.is_none_or(|(height, width)| side(&height) && side(&width)), "image-size");
        ensure!(self.test_fraction > 0.0 && self.test_fraction < 1.0, "test-fraction {}", self.test_fraction);
        Ok(())
    }
}

impl InputConfig {
    pub fn new(dataset: &Dataset) -> Self {
        let Shape { height, width, channels } = dataset.shape;
        let (mean, std, classes) = (dataset.mean.clone(), dataset.std.clone(), dataset.classes.clone());
        Self { channels, height, width, mean, std, classes }
    }

    pub fn shape(&self) -> Shape {
        Shape::new(self.height, self.width, self.channels)
    }

    pub fn normalisation(&self) -> Normalisation {
        (self.mean.clone(), self.std.clone())
    }

    /// What the flags' parsers check, for values that come from a file.
    pub fn check(&self) -> Result<()> {
        let sides = [self.channels, self.height, self.width];
        ensure!(sides.iter().all(|side| (1..=1_000_000).contains(side)), "an input of {sides:?}");
        ensure!(self.mean.len() == self.channels && self.std.len() == self.channels, "one mean and std a channel");
        ensure!(self.mean.iter().all(|mean| mean.is_finite()), "mean {:?}", self.mean);
        ensure!(self.std.iter().all(|std| std.is_finite() && *std > 0.0), "std {:?}", self.std);
        ensure!(!self.classes.is_empty(), "no classes");
        Ok(())
    }
}

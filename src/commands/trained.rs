//! Trained weights for single pictures, and how pictures are prepared for them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use tracing::info;

use super::{model_of_weights, warn_of_assumptions, weights_and_config};
use crate::checkpoint::load_weights;
use crate::data;
use crate::data::picture::{Picture, PicturePreparation};
use crate::network::{Network, Weights};
use crate::ops::Normalise;
use crate::settings::{
    CropSettings, Given, InputRecord, InputSettings, ModelSettings, NormalisationSettings, RunConfig,
    SegmentationSettings, build_network,
};
use crate::shape::Shape;

/// The flags of commands that run trained weights on pictures.
#[derive(Args)]
pub struct TrainedFlags {
    /// Weights (safetensors, or .pth of torch.save), or the folder of a run
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    #[command(flatten)]
    described: DescribedFlags,
}

/// The flags that say what weights were trained for, if nothing else does.
#[derive(Args)]
pub struct DescribedFlags {
    #[command(flatten)]
    model: Given<ModelSettings>,
    #[command(flatten)]
    input: Given<InputSettings>,
    #[command(flatten)]
    crop: Given<CropSettings>,
    #[command(flatten)]
    segmentation: Given<SegmentationSettings>,
    #[command(flatten)]
    normalisation: Given<NormalisationSettings>,
}

/// A trained network, and what is known of its training: from the flags, else the weights' metadata or the configuration
/// next to them, else the model's defaults.
pub struct Trained {
    pub network: Network,
    pub weights: Weights,
    pub classes: Vec<String>,
    pub normalise: Normalise,
    preparation: PicturePreparation,
    /// The configuration of the run that produced the weights, if that is known.
    pub config: Option<RunConfig>,
}

/// What is known of a network without its weights.
pub struct Described {
    pub network: Network,
    pub classes: Vec<String>,
    pub normalise: Normalise,
    pub preparation: PicturePreparation,
    pub config: Option<RunConfig>,
}

impl TrainedFlags {
    /// # Errors
    /// If the weights are missing, damaged, or not those of the network.
    pub fn load(&self) -> Result<Trained> {
        let (path, config) = weights_and_config(&self.weights)?;
        let Described { network, classes, normalise, preparation, config } = self.described.describe(&path, config)?;
        let weights = load_weights(&path, &network)?;
        if config.is_none() {
            self.described.warn_of_defaults(&path, &network, normalise.shape);
        }
        if let Some(count) = preparation.segments {
            info!("each picture is divided into {count} segments of one colour (SLIC)");
        }
        Ok(Trained { network, weights, classes, normalise, preparation, config })
    }
}

impl DescribedFlags {
    /// The network of the weights in `path`, as the flags and the configuration of their run describe it.
    ///
    /// # Errors
    /// If there is no such network.
    pub fn describe(&self, path: &Path, config: Option<RunConfig>) -> Result<Described> {
        let (model, activation) = model_of_weights(&self.model, path, config.as_ref())?;
        let input = config.as_ref().and_then(|config| config.record.input.as_ref());
        let shape = self.input.0.shape(input.map_or(model.input, InputRecord::shape));
        let mut classes = input.map_or_else(Vec::new, |input| input.classes.clone());
        let count = self.input.0.classes.unwrap_or(if classes.is_empty() { model.classes } else { classes.len() });
        classes.truncate(count);
        classes.extend((classes.len()..count).map(|class| class.to_string()));
        let recorded = || input.map(InputRecord::normalisation);
        // By default, every model takes (x / 255 − 0.5) / 0.5.
        let default = || (vec![0.5], vec![0.5]);
        let normalisation = self.normalisation.0.given().or_else(recorded).unwrap_or_else(default);
        let (mean, std) = data::per_channel(normalisation, shape.channels)?;
        let recorded = config.as_ref().filter(|config| config.has_pictures()).map(|config| config.pictures().crop);
        let crop = self.crop.0.given().or(recorded);
        let recorded = config.as_ref().map(|config| &config.settings.data.segmentation);
        let preparation = PicturePreparation { crop, segments: self.segmentation.0.given_or(recorded) };
        let network = self.model.0.apply(build_network(model, shape, classes.len())?, activation);
        Ok(Described { network, classes, normalise: Normalise { shape, mean, std }, preparation, config })
    }

    /// Warns that results depend on defaults that may not be those of the training.
    pub fn warn_of_defaults(&self, path: &Path, built: &Network, shape: Shape) {
        let Self { model: network, input, crop, normalisation, .. } = self;
        let prepared = match shape.channels {
            1 => "pictures are prepared like the digits of MNIST",
            _ => "pictures are scaled to fit, not cropped (--crop-pct)",
        };
        let assumed = [
            network.0.model.is_none().then(|| format!("the network is {} (--model)", built.name)),
            (!input.0.has_shape()).then(|| format!("it takes images of {shape} (--channels, --image-size)")),
            normalisation.0.given().is_none().then(|| "mean 0.5 and std 0.5 (--mean and --std)".into()),
            input.0.classes.is_none().then(|| format!("{} classes without names (--classes)", built.classes())),
            crop.0.given().is_none().then(|| prepared.into()),
        ];
        warn_of_assumptions(path, assumed);
    }
}

impl Trained {
    /// Reads a picture and prepares it for the network as the training pictures were.
    ///
    /// # Errors
    /// If the file is missing or is not a PNG or JPEG picture.
    pub fn read(&self, path: &Path) -> Result<Picture> {
        self.preparation.read(path, self.network.input())
    }
}

//! What a weights file says in its metadata, so that it can be used without its run's folder.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::file::{InputRecord, Record};
use super::layers::Layer;
use super::{ActivationChoice, PictureSettings, SegmentationSettings, bounds, is_default};
use crate::ops::TestViews;
use crate::train::Monitor;

/// Version 2 has `crop-pct`, without which pictures would be cropped in another way, and version 3 `superpixels`, without
/// which images would not be divided into them.
const VERSION: u32 = 3;

/// The network of a weights file and its input, as JSON in the metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Description {
    version: u32,
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationChoice>,
    /// The name of the data set, or the last component of its path.
    pub dataset: String,
    pub preparation: Preparation,
    /// How pictures are cropped, if it is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crop_pct: Option<f64>,
    /// The number of superpixels of an image, if it was divided into them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    superpixels: Option<usize>,
    /// How test pictures were set aside, for a folder without its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<PictureSettings>,
    /// The fraction of the training images that were held out for validation, and the seed of their choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<(f64, u32)>,
    /// The views of a test image whose logits were averaged.
    #[serde(rename = "tta", default, skip_serializing_if = "is_default")]
    pub views: TestViews,
    /// What chose the best epoch of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
    pub input: InputRecord,
}

/// How a picture becomes an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preparation {
    /// Scaled and cropped to the input's size, like the pictures of a training folder.
    Crop,
    /// Scaled to fit into the input's size; with one channel, prepared like the digits of MNIST.
    Fit,
}

impl Description {
    pub fn new(model: &str, activation: Option<ActivationChoice>, dataset: String, input: InputRecord) -> Self {
        Self {
            version: 1,
            model: model.into(),
            activation,
            dataset,
            preparation: Preparation::Fit,
            crop_pct: None,
            superpixels: None,
            split: None,
            validation: None,
            views: TestViews::None,
            monitor: None,
            input,
        }
    }

    /// Sets how pictures are cropped.
    pub fn crop(&mut self, crop_pct: Option<f64>) {
        self.crop_pct = crop_pct.filter(|&part| part != 1.0);
        self.version = self.needed_version();
    }

    /// Sets how images are divided into segments.
    pub fn segment(&mut self, settings: &SegmentationSettings) {
        self.superpixels = settings.superpixels;
        self.version = self.needed_version();
    }

    /// The earliest version that has all fields in use.
    fn needed_version(&self) -> u32 {
        match (self.superpixels, self.crop_pct) {
            (Some(_), _) => VERSION,
            (None, Some(_)) => 2,
            (None, None) => 1,
        }
    }

    /// # Errors
    /// The text is not a description that this program can read.
    pub fn parse(text: &str) -> Result<Self> {
        let description: Self = serde_json::from_str(text).context("its description of the network is damaged")?;
        let version = description.version;
        ensure!(
            version <= VERSION,
            "its description of the network has version {version}, which a newer cnn-cuda wrote; this program reads \
             versions up to {VERSION}"
        );
        ensure!(
            description.crop_pct.is_none_or(|part| (bounds::LEAST_PART..=1.0).contains(&part)),
            "its description of the network is damaged: crop-pct is {:?}",
            description.crop_pct
        );
        ensure!(
            description.superpixels.is_none_or(|count| bounds::segment_count(&count.to_string()).is_ok()),
            "its description of the network is damaged: superpixels is {:?}",
            description.superpixels
        );
        description.input.check().context("its description of the network is damaged: input")?;
        Ok(description)
    }

    /// Whether both describe the same network and input. The name of the data set may differ, because folders move.
    pub fn is_of_run(&self, other: &Self) -> bool {
        let (version, dataset, monitor) = (other.version, other.dataset.clone(), other.monitor);
        Self { version, dataset, monitor, ..self.clone() } == *other
    }

    /// The settings and the record of a run that would have produced the weights.
    pub fn into_layer(self) -> (Layer, Record) {
        let mut layer = Layer::default();
        let given = &mut layer.given;
        given.model.model = Some(self.model);
        given.model.activation = self.activation;
        given.data.dataset = Some(match self.preparation {
            // As a path, even if there is no such folder here.
            Preparation::Crop => format!("./{}", self.dataset),
            Preparation::Fit => self.dataset,
        });
        (given.data.val_fraction, given.data.val_seed) = self.validation.unzip();
        given.evaluation.tta = Some(self.views);
        given.schedule.monitor = self.monitor;
        given.pictures = self.split.unwrap_or_default();
        given.pictures.crop.crop_pct = self.crop_pct;
        given.data.segmentation.superpixels = self.superpixels;
        (layer, Record { input: Some(self.input), ..Record::default() })
    }
}

impl InputRecord {
    /// What the description of a weights file says about its input.
    ///
    /// # Errors
    /// The text is not a description that this program can read.
    pub fn of_weights(description: &str) -> Result<Self> {
        Ok(Description::parse(description)?.input)
    }
}

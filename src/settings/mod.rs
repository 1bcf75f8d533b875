//! Every setting of a run, defined once: its flag, help, default, bounds and key in files. Flags override a recipe,
//! which overrides the defaults. The other modules receive plain structs.

mod augmentation;
pub mod bounds;
mod data;
mod described;
mod device;
mod environment;
mod evaluation;
mod file;
mod finetuning;
mod layers;
mod listed;
mod network;
mod optimiser;
mod output;
mod rule;
mod run;
mod schedule;
mod shown;
mod transforms;
mod weighting;

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

pub use augmentation::AugmentationSettings;
pub use data::{
    CropSettings, DataFolder, DataSettings, NormalisationSettings, PictureSettings, SPLITTING, SegmentationSettings,
    check_dataset, short_name,
};
pub use device::{ConvAlgo, DeviceChoice, DeviceSettings, ResidencyFlags, ResidencySettings, RetiredFlags};
pub use environment::{Environment, date_and_time};
pub use evaluation::{EvaluationSettings, VIEWS};
pub use file::{InputRecord, SettingsFile};
pub use finetuning::FineTuningSettings;
pub use layers::{Given, Layer, defaults};
pub use listed::ValueOfSetting;
pub use network::{ActivationChoice, InputSettings, ModelSettings, VariationSettings, build_network};
pub use optimiser::{Betas, OptimiserSettings, OptimizerChoice};
pub use output::{Keep, OutputSettings, SaveEvery};
pub use run::{FILE, RunConfig};
pub use schedule::ScheduleSettings;
pub use weighting::{ClassWeights, check_weights};

/// The settings of a training run, each a flag and a key of the same name. A field that is not given is `None`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub variation: VariationSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataSettings,
    #[command(flatten)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub pictures: PictureSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub optimiser: OptimiserSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub schedule: ScheduleSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub finetuning: FineTuningSettings,
    #[command(flatten)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub augmentation: AugmentationSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub evaluation: EvaluationSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub residency: ResidencySettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub output: OutputSettings,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Height and width of images: `32` for a square, `32x48` for height and width; in files also `[32, 48]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "[usize; 2]", from = "[usize; 2]")]
pub struct ImageSize {
    pub height: usize,
    pub width: usize,
}

impl From<ImageSize> for [usize; 2] {
    fn from(size: ImageSize) -> Self {
        [size.height, size.width]
    }
}

impl From<[usize; 2]> for ImageSize {
    fn from([height, width]: [usize; 2]) -> Self {
        Self { height, width }
    }
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.trim().parse::<usize>().ok().filter(|side| (1..=4096).contains(side));
        let (height, width) = text.split_once(['x', ',']).unwrap_or((text, text));
        let size = side(height).zip(side(width)).map(|(height, width)| Self { height, width });
        size.ok_or_else(|| "it must be a number from 1 to 4096, or two of them, such as 32x48".into())
    }
}

/// Flags that contradict each other or name something that does not exist. The exit code is 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Suggests the name that is most similar to `written`, as the end of an error; empty if none is.
pub fn suggestion<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let near = |name: &&str| {
        let distance = strsim::damerau_levenshtein(&plain(written), &plain(name));
        (distance <= name.len() / 3).then_some(distance)
    };
    let nearest = names.into_iter().filter(|name| near(name).is_some()).min_by_key(near);
    nearest.map_or(String::new(), |name| format!("; did you mean {name}?"))
}

/// Checks a condition on the flags.
///
/// # Errors
/// A [`UsageError`] if `condition` is false.
pub fn usage(condition: bool, message: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(UsageError(message()).into()) }
}

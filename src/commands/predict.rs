//! `cnn-cuda predict`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tracing::{info, warn};

use super::device::{Task, with_backend};
use super::{model_of_weights, warn_of_assumptions, weights_and_config};
use crate::checkpoint::load_weights;
use crate::data::picture::{Picture, read_cropped, read_picture};
use crate::data::slic::average_segments;
use crate::data::{self, Normalisation};
use crate::files::{name_of, printable};
use crate::models::Model;
use crate::network::{Network, Weights};
use crate::ops::{Backend, Normalise, TestViews};
use crate::report::stream::{Stdout, write_json};
use crate::settings::{
    ActivationChoice, CropSettings, DeviceSettings, EvaluationSettings, Given, InputRecord, InputSettings,
    ModelSettings, NormalisationSettings, RetiredFlags, RunConfig, SegmentationSettings, bounds, build_network,
};
use crate::shape::Shape;
use crate::train::{self, Prediction};

#[derive(Args)]
pub struct PredictArgs {
    /// Weights (safetensors, or .pth of torch.save), or the folder of a run
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
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
    /// PNG or JPEG pictures of any size, in colour or grayscale
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Number of classes to print per picture, most likely first
    #[arg(long, value_name = "N", value_parser = bounds::positive, default_value = "3")]
    top_k: usize,
    #[command(flatten)]
    evaluation: Given<EvaluationSettings>,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    #[command(flatten)]
    retired: RetiredFlags,
    /// Print one JSON object per picture
    #[arg(long)]
    json: bool,
}

/// What `--json` prints for a picture.
#[derive(Serialize)]
struct Classified<'a> {
    image: &'a str,
    /// Whether dark strokes on a light background were inverted.
    inverted: bool,
    classes: Vec<ClassProbability<'a>>,
    /// One per class, before the softmax.
    logits: &'a [f32],
}

#[derive(Serialize)]
struct ClassProbability<'a> {
    class: &'a str,
    probability: f64,
}

/// Classifies pictures. All are read before the first is classified, so that a bad file fails early.
pub fn run(args: &PredictArgs) -> Result<ExitCode> {
    args.retired.warn();
    let (path, config) = weights_and_config(&args.weights)?;
    let info = WeightsInfo::new(args, &path, config.as_ref())?;
    let WeightsInfo { model, activation, shape, classes, normalisation, crop } = info;
    let network = args.model.0.apply(build_network(model, shape, classes.len())?, activation);
    let weights = load_weights(&path, &network)?;
    if config.is_none() {
        warn_of_defaults(args, &path, model, shape);
    }
    let read = |path: &PathBuf| match crop {
        Some(crop) => read_cropped(path, shape, crop),
        None => read_picture(path, shape),
    };
    let mut pictures = args.images.iter().map(read).collect::<Result<Vec<Picture>>>()?;
    let recorded = config.as_ref().map(|config| &config.settings.data.segmentation);
    if let Some(count) = args.segmentation.0.given_or(recorded) {
        info!("each picture is divided into {count} segments of one colour (SLIC)");
        pictures.iter_mut().for_each(|picture| average_segments(&mut picture.pixels, shape, count));
    }
    let views = args.evaluation.0.views(config.as_ref().map(|config| &config.settings.evaluation));
    if views != TestViews::None {
        info!("the logits are the mean of several views of each picture ({})", views.name());
    }
    let task = Classification { network: &network, weights: &weights, pictures: &pictures, normalisation, views };
    let predictions = with_backend(&args.device.or_defaults()?, task)?;
    let mut out = Stdout::default();
    for ((path, picture), prediction) in args.images.iter().zip(&pictures).zip(&predictions) {
        let name = name_of(path.as_os_str().as_encoded_bytes());
        let shown = printable(&name);
        if picture.blank {
            warn!("{shown}: the picture is blank, so its classification means nothing");
        }
        let named = |(class, probability): (usize, f64)| ClassProbability { class: &classes[class], probability };
        let top: Vec<_> = prediction.top(args.top_k).into_iter().map(named).collect();
        if args.json {
            let logits = &prediction.logits;
            let result = Classified { image: &name, inverted: picture.inverted, classes: top, logits };
            write_json(&mut out, &result)?;
            continue;
        }
        if picture.inverted {
            info!("{shown}: dark on light, inverted");
        }
        let top: Vec<String> =
            top.iter().map(|it| format!("{} {:.2}%", printable(it.class), 100.0 * it.probability)).collect();
        writeln!(out, "{shown}: {}", top.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What weights were trained for: from the flags, else their metadata or the configuration next to them, else the
/// model's defaults.
struct WeightsInfo {
    model: &'static Model,
    /// The activation that the run used instead of the model's own, if any.
    activation: Option<ActivationChoice>,
    shape: Shape,
    classes: Vec<String>,
    normalisation: Normalisation,
    /// If pictures are scaled and cropped like those of a folder, the part of the shorter side that is cropped.
    crop: Option<f64>,
}

impl WeightsInfo {
    fn new(args: &PredictArgs, path: &Path, config: Option<&RunConfig>) -> Result<Self> {
        let (model, activation) = model_of_weights(&args.model, path, config)?;
        let input = config.and_then(|config| config.record.input.as_ref());
        let shape = args.input.0.shape(input.map_or(model.input, InputRecord::shape));
        let mut classes = input.map_or_else(Vec::new, |input| input.classes.clone());
        let count = args.input.0.classes.unwrap_or(if classes.is_empty() { model.classes } else { classes.len() });
        classes.truncate(count);
        classes.extend((classes.len()..count).map(|class| class.to_string()));
        let recorded = || input.map(InputRecord::normalisation);
        // By default, every model takes (x / 255 − 0.5) / 0.5.
        let default = || (vec![0.5], vec![0.5]);
        let (mean, std) = args.normalisation.0.given().or_else(recorded).unwrap_or_else(default);
        let normalisation = data::per_channel((mean, std), shape.channels)?;
        let recorded = config.filter(|config| config.has_pictures()).map(|config| config.pictures().crop);
        let crop = args.crop.0.given().or(recorded);
        Ok(Self { model, activation, shape, classes, normalisation, crop })
    }
}

/// Warns that results depend on defaults that may not be those of the training.
fn warn_of_defaults(args: &PredictArgs, path: &Path, model: &Model, shape: Shape) {
    let PredictArgs { model: network, input, crop, normalisation, .. } = args;
    let prepared = match shape.channels {
        1 => "pictures are prepared like the digits of MNIST",
        _ => "pictures are scaled to fit, not cropped (--crop-pct)",
    };
    let assumed = [
        network.0.model.is_none().then(|| format!("the network is {} (--model)", model.name)),
        (!input.0.has_shape()).then(|| format!("it takes images of {shape} (--channels, --image-size)")),
        normalisation.0.given().is_none().then(|| "mean 0.5 and std 0.5 (--mean and --std)".into()),
        input.0.classes.is_none().then(|| format!("{} classes without names (--classes)", model.classes)),
        crop.0.given().is_none().then(|| prepared.into()),
    ];
    warn_of_assumptions(path, assumed);
}

struct Classification<'a> {
    network: &'a Network,
    weights: &'a Weights,
    pictures: &'a [Picture],
    normalisation: Normalisation,
    views: TestViews,
}

impl Task for Classification<'_> {
    type Output = Vec<Prediction>;

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output> {
        let (mean, std) = self.normalisation;
        let normalise = Normalise { shape: self.network.input(), mean, std };
        let images = self.pictures.iter().flat_map(|picture| picture.pixels.iter().copied()).collect();
        train::predict(backend, self.network, self.weights, images, &normalise, self.views)
    }
}

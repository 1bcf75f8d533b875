//! `cnn-cuda predict`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tracing::{info, warn};

use super::device::{Task, with_backend};
use super::trained::{Trained, TrainedFlags};
use crate::data::picture::Picture;
use crate::files::{name_of, printable};
use crate::ops::{Backend, TestViews};
use crate::report::stream::{Stdout, write_json};
use crate::settings::{DeviceSettings, EvaluationSettings, Given, RetiredFlags, bounds};
use crate::train::{self, Prediction};

#[derive(Args)]
pub struct PredictArgs {
    #[command(flatten)]
    trained: TrainedFlags,
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
    let trained = args.trained.load()?;
    let pictures = args.images.iter().map(|path| trained.read(path)).collect::<Result<Vec<Picture>>>()?;
    let views = args.evaluation.0.views(trained.config.as_ref().map(|config| &config.settings.evaluation));
    if views != TestViews::None {
        info!("the logits are the mean of several views of each picture ({})", views.name());
    }
    let task = Classification { trained: &trained, pictures: &pictures, views };
    let predictions = with_backend(&args.device.or_defaults()?, task)?;
    let mut out = Stdout::default();
    for ((path, picture), prediction) in args.images.iter().zip(&pictures).zip(&predictions) {
        let name = name_of(path.as_os_str().as_encoded_bytes());
        let shown = printable(&name);
        if picture.blank {
            warn!("{shown}: the picture is blank, so its classification means nothing");
        }
        let named =
            |(class, probability): (usize, f64)| ClassProbability { class: &trained.classes[class], probability };
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

struct Classification<'a> {
    trained: &'a Trained,
    pictures: &'a [Picture],
    views: TestViews,
}

impl Task for Classification<'_> {
    type Output = Vec<Prediction>;

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output> {
        let Trained { network, weights, normalise, .. } = self.trained;
        let (network, weights) = network.folded(weights);
        let images = self.pictures.iter().flat_map(|picture| picture.pixels.iter().copied()).collect();
        train::predict(backend, &network, &weights, images, normalise, self.views)
    }
}

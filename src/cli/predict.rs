//! `cnn-cuda predict`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tracing::{info, warn};

use super::config::Config;
use super::dataset::NormalisationArgs;
use super::device::{DeviceArgs, Task, with_backend};
use super::input::InputConfig;
use super::stream::Stdout;
use super::variation::{ActivationArgs, ActivationChoice};
use super::{build_network, find_model, flags};
use crate::checkpoint::load_weights;
use crate::data::picture::{Picture, read_cropped, read_picture};
use crate::data::{self, Normalisation};
use crate::models::Model;
use crate::network::{Network, Weights};
use crate::ops::Backend;
use crate::plan::{self, Mode, Plan, Sequence};
use crate::shape::Shape;

#[derive(Args)]
pub struct PredictArgs {
    /// Weights (safetensors in PyTorch's names and layout)
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Network that the weights are of [default: that of their run, else mnist-cnn]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    #[command(flatten)]
    activation: ActivationArgs,
    /// Outputs of the network [default: those of the weights' run, else the network's usual ones]
    #[arg(long, value_name = "N", value_parser = flags::classes, allow_negative_numbers = true)]
    classes: Option<usize>,
    /// 1 for gray, 3 for colours [default: that of the weights' run, else the network's usual input]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3), allow_negative_numbers = true)]
    channels: Option<u8>,
    /// Side, or HEIGHTxWIDTH, of the network's input, likewise
    #[arg(long, value_name = "N", value_parser = flags::image_size)]
    image_size: Option<(usize, usize)>,
    #[command(flatten)]
    normalisation: NormalisationArgs,
    /// PNG or JPEG pictures, of any size and colour
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Classes to print per picture, the likeliest first
    #[arg(long, value_name = "N", value_parser = flags::positive, default_value = "3")]
    top_k: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object per picture
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Prediction<'a> {
    image: &'a str,
    /// Whether dark strokes on a light ground were turned into light on dark.
    inverted: bool,
    classes: Vec<ClassProbability>,
    /// Before the softmax, in the order of the classes.
    logits: &'a [f32],
}

#[derive(Serialize)]
struct ClassProbability {
    class: String,
    probability: f64,
}

/// Classifies pictures; all are read before any is classified, so that one bad file costs nothing.
pub fn run(args: &PredictArgs) -> Result<ExitCode> {
    let Origin { model, activation, shape, classes, normalisation, crops } = Origin::new(args)?;
    let network = args.activation.apply(build_network(model, shape, classes.len())?, activation);
    let weights = load_weights(&args.weights, &network)?;
    let read = if crops { read_cropped } else { read_picture };
    let pictures = args.images.iter().map(|path| read(path, shape)).collect::<Result<Vec<Picture>>>()?;
    let task = Classification { network: &network, weights: &weights, pictures: &pictures, normalisation };
    let logits = with_backend(&args.device, task)?;
    let mut out = Stdout::new();
    for ((path, picture), logits) in args.images.iter().zip(&pictures).zip(&logits) {
        let name = path.to_string_lossy();
        if picture.blank {
            warn!("{name}: there is nothing on this picture; what follows means nothing");
        }
        let classes = top(&softmax(logits), &classes, args.top_k);
        let prediction = Prediction { image: &name, inverted: picture.inverted, classes, logits };
        if args.json {
            serde_json::to_writer(&mut out, &prediction)?;
            writeln!(out)?;
            continue;
        }
        if picture.inverted {
            info!("{name}: dark on light, inverted");
        }
        let classes: Vec<String> =
            prediction.classes.iter().map(|c| format!("{} {:.2}%", c.class, 100.0 * c.probability)).collect();
        writeln!(out, "{name}: {}", classes.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the weights were made for: by the flags, else by the configuration beside them, else as the model's table says.
struct Origin {
    model: &'static Model,
    /// That of the run, where it is not the model's own.
    activation: Option<ActivationChoice>,
    shape: Shape,
    classes: Vec<String>,
    normalisation: Normalisation,
    /// Pictures are prepared as those of a folder are.
    crops: bool,
}

impl Origin {
    fn new(args: &PredictArgs) -> Result<Self> {
        let config = Config::beside(&args.weights);
        let name = args.model.as_deref().or(config.as_ref().map(|config| config.model.as_str()));
        let model = find_model(name.unwrap_or("mnist-cnn"))?;
        let input = config.as_ref().and_then(|config| config.input.as_ref());
        let mut shape = input.map_or(model.input, InputConfig::shape);
        (shape.height, shape.width) = args.image_size.unwrap_or((shape.height, shape.width));
        shape.channels = args.channels.map_or(shape.channels, usize::from);
        let mut classes = input.map_or_else(Vec::new, |input| input.classes.clone());
        let count = args.classes.unwrap_or(if classes.is_empty() { model.classes } else { classes.len() });
        classes.truncate(count);
        classes.extend((classes.len()..count).map(|class| class.to_string()));
        let of_run = || input.map(InputConfig::normalisation);
        // Every model of the table was made for (x / 255 − 0.5) / 0.5.
        let usual = || (vec![0.5], vec![0.5]);
        let (mean, std) = args.normalisation.given().or_else(of_run).unwrap_or_else(usual);
        let normalisation = data::per_channel((mean, std), shape.channels)?;
        let activation = config.as_ref().filter(|config| config.model == model.name).and_then(|c| c.activation);
        let crops = config.is_some_and(|config| config.pictures.is_some());
        Ok(Self { model, activation, shape, classes, normalisation, crops })
    }
}

/// The `k` likeliest classes.
fn top(probabilities: &[f64], names: &[String], k: usize) -> Vec<ClassProbability> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let class = |&index: &usize| ClassProbability { class: names[index].clone(), probability: probabilities[index] };
    order.iter().take(k).map(class).collect()
}

struct Classification<'a> {
    network: &'a Network,
    weights: &'a Weights,
    pictures: &'a [Picture],
    normalisation: Normalisation,
}

impl Task for Classification<'_> {
    /// Per picture, the logits.
    type Output = Vec<Vec<f32>>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let plan = Plan::new(self.network, Mode::Inference, 1)?;
        backend.allocate(&plan.memory_sizes(false))?;
        let mut program = backend.compile(plan.steps(&Sequence::Forward, 1))?;
        plan::write_weights(&mut backend, self.weights)?;
        let (mean, std) = &self.normalisation;
        let mut classify = |picture: &Picture| {
            let scale = |(&x, (mean, std)): (&u8, (&f32, &f32))| (f32::from(x) / 255.0 - mean) / std;
            let input: Vec<f32> = picture.pixels.iter().zip(mean.iter().zip(std).cycle()).map(scale).collect();
            backend.write(plan.span(plan.input, 1), &input)?;
            backend.run(&mut program)?;
            let logits = backend.read(plan.span(plan.logits, 1))?;
            ensure!(
                logits.iter().all(|logit| logit.is_finite()),
                "the network gives {logits:?}: these weights have diverged"
            );
            Ok(logits)
        };
        self.pictures.iter().map(&mut classify).collect()
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|exp| exp / sum).collect()
}

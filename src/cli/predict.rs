//! `cnn-cuda predict`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tracing::{info, warn};

use super::device::{DeviceArgs, Task, with_backend};
use super::stream::Stdout;
use super::{build_network, find_model, flags};
use crate::checkpoint::load_weights;
use crate::data::picture::{Picture, read_picture};
use crate::network::Network;
use crate::ops::{Backend, Region, Span};
use crate::plan::{self, Mode, Plan};

#[derive(Args)]
pub struct PredictArgs {
    /// Weights (safetensors in PyTorch's names and layout)
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Network that the weights are of
    #[arg(long, value_name = "NAME", default_value = "mnist-cnn")]
    model: String,
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
    let model = find_model(&args.model)?;
    let network = build_network(model, model.input, model.classes)?;
    let weights = load_weights(&args.weights, &network)?;
    let pictures =
        args.images.iter().map(|path| read_picture(path, network.input())).collect::<Result<Vec<Picture>>>()?;
    let task = Classification { network: &network, weights: &weights, pictures: &pictures };
    let logits = with_backend(&args.device, task)?;
    let mut out = Stdout::new();
    for ((path, picture), logits) in args.images.iter().zip(&pictures).zip(&logits) {
        let name = path.to_string_lossy();
        if picture.blank {
            warn!("{name}: there is nothing on this picture; what follows means nothing");
        }
        let classes = top(&softmax(logits), args.top_k);
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

/// The `k` likeliest classes.
fn top(probabilities: &[f64], k: usize) -> Vec<ClassProbability> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let class = |&index: &usize| ClassProbability { class: index.to_string(), probability: probabilities[index] };
    order.iter().take(k).map(class).collect()
}

struct Classification<'a> {
    network: &'a Network,
    weights: &'a [f32],
    pictures: &'a [Picture],
}

impl Task for Classification<'_> {
    /// Per picture, the logits.
    type Output = Vec<Vec<f32>>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let plan = Plan::new(self.network, Mode::Inference, 1)?;
        backend.allocate(&plan.memory_sizes(false))?;
        backend.write(Span::new(Region::Parameters, 0, self.weights.len()), self.weights)?;
        let classify = |picture: &Picture| {
            // Every model of the table was made for (x / 255 − 0.5) / 0.5.
            let input: Vec<f32> = picture.pixels.iter().map(|&x| (f32::from(x) / 255.0 - 0.5) / 0.5).collect();
            backend.write(plan.input, &input)?;
            plan::forward(&mut backend, &plan, 1)?;
            let logits = backend.read(plan.logits.first(plan.classes))?;
            ensure!(
                logits.iter().all(|logit| logit.is_finite()),
                "the network gives {logits:?}: these weights have diverged"
            );
            Ok(logits)
        };
        self.pictures.iter().map(classify).collect()
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|exp| exp / sum).collect()
}

//! `cnn-cuda eval`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::config::Config;
use super::dataset::{self, DatasetArgs};
use super::device::{DeviceArgs, Task, check_device, with_backend};
use super::residency::Residency;
use super::stream::Stdout;
use super::variation::ActivationArgs;
use super::{build_network, find_model, flags};
use crate::checkpoint::load_weights;
use crate::data::{self, Dataset, LoadOptions};
use crate::network::{Network, Weights};
use crate::ops::{Backend, Metrics, Normalise, Subset};
use crate::plan::{self, Mode, Plan, Sequence};
use crate::report::Confusion;

#[derive(Args)]
pub struct EvalArgs {
    /// Weights (safetensors in PyTorch's names and layout)
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Network that the weights are of [default: that of their run, else mnist-cnn]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    #[command(flatten)]
    activation: ActivationArgs,
    #[command(flatten)]
    data: DatasetArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Images per step
    #[arg(long, value_name = "N", value_parser = flags::batch_size, default_value = "128")]
    batch_size: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Evaluates weights on the test set. What no flag says, the configuration beside the weights does.
pub fn run(args: &EvalArgs) -> Result<ExitCode> {
    ensure!(args.weights.is_file(), "--weights {}: there is no such file", args.weights.display());
    let config = Config::beside(&args.weights);
    let of_run = config.as_ref().map(|config| config.model.as_str());
    let model = find_model(args.model.as_deref().or(of_run).unwrap_or("mnist-cnn"))?;
    check_device(&args.device)?;
    let dataset = load(args, config.as_ref())?;
    let network = build_network(model, dataset.shape, dataset.classes.len())?;
    let of_run = config.as_ref().filter(|config| config.model == model.name).and_then(|config| config.activation);
    let network = args.activation.apply(network, of_run);
    let weights = load_weights(&args.weights, &network)?;
    let task = Evaluation { network: &network, weights: &weights, dataset, batch_size: args.batch_size };
    let result = with_backend(&args.device, task)?;
    let mut out = Stdout::new();
    if args.json {
        serde_json::to_writer(&mut out, &result)?;
        writeln!(out)?;
    } else {
        let images = result.images;
        let speed = images as f64 / result.seconds;
        write!(out, "test loss {:.4}, accuracy {:.2}% of {images} images", result.loss, 100.0 * result.accuracy)?;
        writeln!(out, " in {:.2} s ({speed:.0} images/s)\n", result.seconds)?;
        result.confusion.print(&mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the data set: by the flags, and for the rest as the run did.
fn load(args: &EvalArgs, config: Option<&Config>) -> Result<Dataset> {
    let mut options = config.map_or_else(LoadOptions::default, Config::load_options);
    let of_run = config.map(|config| config.dataset.as_str());
    let name = args.data.dataset.as_deref().or(of_run).unwrap_or("mnist");
    // What can be wrong with the flags is told before anything is downloaded.
    args.data.check(name)?;
    if args.data.dataset.is_some() || args.data.folder.data.is_some() || !options.folder.is_dir() {
        options.folder = args.data.folder.folder();
    }
    if let Some(input) = config.and_then(|config| config.input.as_ref()) {
        options.pictures.image_size = Some((input.shape().height, input.shape().width));
    }
    options.pictures = args.data.pictures(&options.pictures);
    options.normalisation = args.data.normalisation.given().or(options.normalisation);
    (options.download, options.progress, options.test_only) = (true, true, true);
    let mut dataset = data::load(name, &options)?;
    let own = dataset.classes.len();
    let of_run = options.classes.map(|classes| classes.len()).filter(|&count| count > own);
    dataset::widen(&mut dataset, args.data.classes.or(of_run))?;
    Ok(dataset)
}

struct Evaluation<'a> {
    network: &'a Network,
    weights: &'a Weights,
    dataset: Dataset,
    batch_size: usize,
}

#[derive(Serialize)]
struct EvaluationResult {
    loss: f64,
    accuracy: f64,
    images: u64,
    /// From the first batch to the last, with everything loaded.
    seconds: f64,
    confusion: Confusion,
}

impl Task for Evaluation<'_> {
    type Output = EvaluationResult;

    fn run<B: Backend>(self, mut backend: B) -> Result<EvaluationResult> {
        let mut dataset = self.dataset;
        Residency::Auto.place(&mut dataset, backend.free_memory())?;
        let Dataset { shape, classes, mean, std, test, .. } = dataset;
        let (count, labels) = (test.count(), test.labels.clone());
        let plan = Plan::new(self.network, Mode::Inference, self.batch_size.min(count))?;
        let normalise = Normalise { shape, mean, std };
        match test.streamed {
            Some(streamed) => {
                backend.stream_subset(Subset::Test, &normalise, streamed.source, test.labels, plan.max_batch)?;
            }
            None => backend.load_subset(Subset::Test, &normalise, test.images, test.labels)?,
        }
        backend.allocate(&plan.memory_sizes(false))?;
        let rest = count % plan.max_batch;
        let mut compile = |batch| backend.compile(plan.steps(&Sequence::EvaluateStep, batch));
        let (mut whole, mut last) = (compile(plan.max_batch)?, if rest > 0 { Some(compile(rest)?) } else { None });
        plan::write_weights(&mut backend, self.weights)?;
        let order: Vec<u32> = (0..count as u32).collect();
        backend.set_order(Subset::Test, &order, 0)?;
        backend.set_metrics(Metrics::default())?;
        let mut confusion = Confusion::new(classes);
        let start = Instant::now();
        for labels in labels.chunks(plan.max_batch) {
            let program = if labels.len() == plan.max_batch { &mut whole } else { last.as_mut().unwrap_or(&mut whole) };
            backend.run(program)?;
            let logits = backend.read(plan.span(plan.logits, labels.len()))?;
            for (&label, logits) in labels.iter().zip(logits.chunks_exact(plan.classes)) {
                ensure!(
                    logits.iter().all(|logit| logit.is_finite()),
                    "the network gives {logits:?} for an image: these weights have diverged"
                );
                confusion.add(label, first_maximum(logits) as u32);
            }
        }
        let metrics = backend.read_metrics()?;
        let seconds = start.elapsed().as_secs_f64();
        let (loss, accuracy, images) = (metrics.loss(), metrics.accuracy(), metrics.samples);
        Ok(EvaluationResult { loss, accuracy, images, seconds, confusion })
    }
}

/// Index of the first of the largest of finite values.
fn first_maximum(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best })
}

//! `cnn-cuda summary`

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::NetworkFlags;
use super::device::{Task, cuda_launches, with_backend};
use crate::bench::{self, Chosen, PlanSummary};
use crate::models;
use crate::network::Network;
use crate::ops::{Backend, MemorySizes, Step};
use crate::plan::{Mode, Plan, Sequence, TrainSettings};
use crate::report::grouped;
use crate::report::stream::{Stdout, write_json};
use crate::settings::{DeviceChoice, DeviceSettings, Given, bounds, usage};

#[derive(Args)]
pub struct SummaryArgs {
    #[command(flatten)]
    network: NetworkFlags,
    /// Show the training step instead: its parts with the operators fused into them, their buffers and CUDA launches.
    /// The launches are those of an H100 with the algorithms that have the fewest, or with --device N those of this
    /// device with the algorithms that it chooses (it first measures those not measured yet). The flags of the device require --plan
    #[arg(long)]
    plan: bool,
    /// Images per step, for the memory estimate and --plan
    #[arg(long, value_name = "N", value_parser = bounds::batch_size, default_value = "64")]
    batch_size: usize,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    /// Print JSON: one object for a network, a list of objects without --model
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    model: String,
    layers: Vec<Layer>,
    parameters: usize,
    /// Without auxiliary classifiers, which only training uses.
    evaluated_parameters: usize,
    /// Running means and variances of batch normalisations, without `num_batches_tracked`; not parameters.
    running_statistics: usize,
    multiply_adds: u64,
    memory: Memory,
}

/// Memory in MB (10⁶ bytes) for one batch in fp32, without data sets and a backend's workspace.
#[derive(Serialize)]
struct Memory {
    batch_size: usize,
    /// In training: parameters and their gradients.
    parameters_mb: f64,
    /// In training: running statistics and those of the batch.
    statistics_mb: f64,
    /// In training: activations and their gradients, and indices.
    activations_mb: f64,
    /// In training: the state of the optimiser, which is not part of the other numbers.
    momentum_mb: f64,
    adam_mb: f64,
    /// In training with --grad-accum-steps: the sum of the gradients, which is not part of the other numbers.
    accumulation_mb: f64,
    /// In evaluation: the total.
    evaluation_mb: f64,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    operator: String,
    /// `[channels, height, width]`, or `[features]`.
    output_shape: Vec<usize>,
    #[serde(skip)]
    shape: String,
    parameters: usize,
    running_statistics: usize,
    multiply_adds: u64,
    /// Side in input pixels; `None` for outputs without a position, such as those of linear layers.
    receptive_field: Option<usize>,
}

#[derive(Serialize)]
struct Entry {
    model: &'static str,
    about: &'static str,
}

/// Prints the summary of one network, or a list of all networks.
pub fn run(args: &SummaryArgs) -> Result<ExitCode> {
    let mut out = Stdout::default();
    let is_given = args.device.0 != DeviceSettings::default();
    usage(args.plan || !is_given, || {
        "--device, --precision, --threads, --workspace-mb, --conv-algo and --dependent-launch require --plan".into()
    })?;
    if !args.plan && args.network.model.0.model.is_none() {
        let given = args.network != NetworkFlags::default();
        usage(!given, || {
            "--activation, --dropout, --conv1, --classes, --channels and --image-size require --model".into()
        })?;
        list(&mut out, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let network = args.network.build()?;
    if args.plan {
        show_plan(&mut out, &network, args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let summary = summarise(&network, args.batch_size)?;
    if args.json {
        write_json(&mut out, &summary)?;
    } else {
        print(&mut out, &summary)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the parts of a training step and their CUDA launches.
fn show_plan(out: &mut impl Write, network: &Network, args: &SummaryArgs) -> Result<()> {
    let (device, batch_size) = (args.device.or_defaults()?, args.batch_size);
    let plan = Plan::new(network, Mode::Training, batch_size)?;
    let steps = plan.steps(&Sequence::TrainStep(TrainSettings::default()), batch_size);
    let sizes = plan.memory_sizes(false);
    let (chosen_on, launches, algorithms) = match device.device {
        Some(DeviceChoice::Cuda(_)) => with_backend(&device, ChooseAlgorithms { steps, sizes })?,
        _ => (None, cuda_launches(&steps, &sizes, &device)?, Vec::new()),
    };
    let precision = device.precision.unwrap_or_default();
    let summary = PlanSummary::new(network, batch_size, precision, launches, chosen_on, algorithms)?;
    if args.json {
        write_json(out, &summary)?;
        return Ok(());
    }
    bench::print_plan(out, &summary)
}

/// Finds the algorithms that a device chooses for a step, and their launches. The device measures those not measured
/// yet.
struct ChooseAlgorithms {
    steps: Vec<Step>,
    sizes: MemorySizes,
}

impl Task for ChooseAlgorithms {
    /// The device, if the steps have choices; the launches of every step; the choices.
    type Output = (Option<String>, Vec<Vec<String>>, Vec<Chosen>);

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        backend.allocate(&self.sizes)?;
        let program = backend.compile(self.steps.clone())?;
        let info = backend.info();
        let chosen = bench::chosen(&self.steps, &B::sites(&program), &backend.choices(), info.precision);
        let launches = B::launches(&program).context("the device has no launches")?;
        Ok((Some(info.name).filter(|_| !chosen.is_empty()), launches, chosen))
    }
}

fn list(out: &mut impl Write, json: bool) -> Result<()> {
    if json {
        let entries: Vec<Entry> =
            models::TABLE.iter().map(|model| Entry { model: model.name, about: model.about }).collect();
        write_json(out, &entries)?;
        return Ok(());
    }
    for model in models::TABLE {
        writeln!(out, "{:<12} {}", model.name, model.about)?;
    }
    writeln!(out, "\n`cnn-cuda summary --model NAME` shows the layers of a network.")?;
    Ok(())
}

fn summarise(network: &Network, batch_size: usize) -> Result<Summary> {
    let mut layers = Vec::new();
    for (node, field) in network.nodes.iter().zip(network.receptive_fields()) {
        let shape = node.shape;
        layers.push(Layer {
            name: node.name.clone(),
            operator: node.operator.describe(),
            output_shape: match shape.pixels() {
                1 => vec![shape.channels],
                _ => vec![shape.channels, shape.height, shape.width],
            },
            shape: shape.to_string(),
            parameters: network.node_parameters(node),
            running_statistics: node.statistics.map_or(0, |index| network.statistics[index].range().len()),
            multiply_adds: node.multiply_adds()?,
            receptive_field: field.map(|field| field.size),
        });
    }
    Ok(Summary {
        model: network.name.clone(),
        layers,
        parameters: network.parameter_count(),
        evaluated_parameters: network.evaluated_parameter_count(),
        running_statistics: network.statistics_len(),
        multiply_adds: network.multiply_adds()?,
        memory: memory(network, batch_size)?,
    })
}

fn memory(network: &Network, batch_size: usize) -> Result<Memory> {
    let sizes = |mode| Plan::new(network, mode, batch_size).map(|plan| plan.memory_sizes(false));
    let (training, evaluation) = (sizes(Mode::Training)?, sizes(Mode::Inference)?);
    let megabytes = |elements: usize| elements as f64 * 4e-6;
    Ok(Memory {
        batch_size,
        parameters_mb: megabytes(training.parameters + training.gradients),
        statistics_mb: megabytes(training.statistics),
        activations_mb: megabytes(training.arena + training.indices),
        momentum_mb: megabytes(training.gradients),
        adam_mb: megabytes(2 * training.gradients),
        accumulation_mb: megabytes(training.gradients),
        evaluation_mb: megabytes(evaluation.parameters + evaluation.statistics + evaluation.arena + evaluation.indices),
    })
}

fn print(out: &mut impl Write, summary: &Summary) -> Result<()> {
    let columns = ["layer", "operator", "output", "parameters", "statistics", "multiply-adds", "receptive field"];
    let rows = summary.layers.iter().map(|layer| {
        [
            layer.name.clone(),
            layer.operator.clone(),
            layer.shape.clone(),
            dash_if_zero(layer.parameters as u64),
            dash_if_zero(layer.running_statistics as u64),
            dash_if_zero(layer.multiply_adds),
            layer.receptive_field.map_or("all".into(), |size| format!("{size}×{size}")),
        ]
    });
    let rows: Vec<_> = std::iter::once(columns.map(String::from)).chain(rows).collect();
    let has_statistics = summary.running_statistics > 0;
    let shown: Vec<usize> = (0..columns.len()).filter(|&c| columns[c] != "statistics" || has_statistics).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in &rows {
        let cell = |&column: &usize| match column {
            0 | 1 => format!("{:<1$}", row[column], widths[column]),
            _ => format!("{:>1$}", row[column], widths[column]),
        };
        writeln!(out, "{}", shown.iter().map(cell).collect::<Vec<_>>().join("  "))?;
    }
    print_totals(out, summary)
}

fn print_totals(out: &mut impl Write, summary: &Summary) -> Result<()> {
    let (parameters, multiply_adds) = (grouped(summary.parameters as f64), grouped(summary.multiply_adds as f64));
    writeln!(out, "\n{}: {parameters} parameters, {multiply_adds} multiply-adds per image", summary.model)?;
    if summary.evaluated_parameters < summary.parameters {
        let evaluated = grouped(summary.evaluated_parameters as f64);
        writeln!(out, "{evaluated} parameters without the auxiliary classifiers, which only training uses")?;
    }
    if summary.running_statistics > 0 {
        let statistics = grouped(summary.running_statistics as f64);
        writeln!(out, "{statistics} running means and variances of batch normalisations, which are not parameters")?;
    }
    let Memory { batch_size, parameters_mb, statistics_mb, activations_mb, evaluation_mb, .. } = summary.memory;
    let Memory { momentum_mb, adam_mb, accumulation_mb, .. } = summary.memory;
    writeln!(
        out,
        "memory at batch {batch_size}: {:.1} MB in training (parameters {parameters_mb:.1}, activations \
         {activations_mb:.1}, gradients of both included), {evaluation_mb:.1} MB in evaluation",
        parameters_mb + statistics_mb + activations_mb
    )?;
    writeln!(
        out,
        "state of the optimiser in training: {momentum_mb:.1} MB with momentum, {adam_mb:.1} MB with Adam; \
         {accumulation_mb:.1} MB more with --grad-accum-steps"
    )?;
    Ok(())
}

fn dash_if_zero(number: u64) -> String {
    if number == 0 { "–".into() } else { grouped(number as f64) }
}

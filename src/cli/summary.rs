//! `cnn-cuda summary`

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::device::{ConvAlgo, Precision};
use super::stream::Stdout;
use super::{build_network, find_model, flags, plan};
use crate::models;
use crate::network::Network;
use crate::plan::{Mode, Plan};
use crate::report::grouped;

#[derive(Args)]
pub struct SummaryArgs {
    /// Network; without one, all are listed [default with --plan: mnist-cnn]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Show the training step instead: its parts with what is fused, their buffers, and what a CUDA device runs for them
    #[arg(long)]
    plan: bool,
    /// Images per step, for the memory and with --plan
    #[arg(long, value_name = "N", value_parser = flags::batch_size, default_value = "64")]
    batch_size: usize,
    /// Arithmetic, with --plan
    #[arg(long, value_enum, value_name = "PRECISION", default_value = "fp32", requires = "plan")]
    precision: Precision,
    /// How convolutions and linear layers are computed, with --plan; without --device auto takes the fewest launches
    #[arg(long, value_enum, value_name = "ALGORITHM", default_value = "auto", requires = "plan")]
    conv_algo: ConvAlgo,
    /// Show what this CUDA device chooses, with --plan; what it has not measured yet is measured
    #[arg(long, value_name = "N", requires = "plan")]
    device: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    model: String,
    layers: Vec<Layer>,
    parameters: usize,
    /// Without heads that only help training.
    evaluated_parameters: usize,
    multiply_adds: u64,
    memory: Memory,
}

/// Of a batch, in MB of 10⁶ bytes of fp32, without momentum, data and what a backend works with.
#[derive(Serialize)]
struct Memory {
    batch_size: usize,
    /// In training: parameters with their gradients; activations with theirs, and indices.
    parameters_mb: f64,
    activations_mb: f64,
    /// In evaluation, all together.
    evaluation_mb: f64,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    operator: String,
    /// Channels, height, width, or features alone.
    output_shape: Vec<usize>,
    #[serde(skip)]
    shape: String,
    parameters: usize,
    multiply_adds: u64,
    /// Input pixels in each direction, where positions still have a meaning.
    receptive_field: Option<usize>,
}

#[derive(Serialize)]
struct Entry {
    model: &'static str,
    about: &'static str,
}

/// Shows one network, or the list of all.
pub fn run(args: &SummaryArgs) -> Result<ExitCode> {
    let mut out = Stdout::new();
    match args.model.as_deref().or(args.plan.then_some("mnist-cnn")) {
        None => list(&mut out, args.json)?,
        Some(name) => {
            let model = find_model(name)?;
            let network = build_network(model, model.input, model.classes)?;
            if args.plan {
                let how = plan::How { precision: args.precision, algorithm: args.conv_algo, device: args.device };
                plan::print(&mut out, &network, args.batch_size, &how, args.json)?;
                return Ok(ExitCode::SUCCESS);
            }
            let summary = summarise(&network, args.batch_size)?;
            if args.json {
                serde_json::to_writer(&mut out, &summary)?;
                writeln!(out)?;
            } else {
                print(&mut out, &summary)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(out: &mut impl Write, json: bool) -> Result<()> {
    if json {
        let entries: Vec<Entry> =
            models::TABLE.iter().map(|model| Entry { model: model.name, about: model.about }).collect();
        serde_json::to_writer(&mut *out, &entries)?;
        writeln!(out)?;
        return Ok(());
    }
    for model in models::TABLE {
        writeln!(out, "{:<12} {}", model.name, model.about)?;
    }
    writeln!(out, "\n`cnn-cuda summary --model NAME` shows the layers of one.")?;
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
            multiply_adds: node.multiply_adds()?,
            receptive_field: field.map(|field| field.size),
        });
    }
    Ok(Summary {
        model: network.name.clone(),
        layers,
        parameters: network.parameter_count(),
        evaluated_parameters: network.evaluated_parameter_count(),
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
        activations_mb: megabytes(training.arena + training.indices),
        evaluation_mb: megabytes(evaluation.parameters + evaluation.arena + evaluation.indices),
    })
}

fn print(out: &mut impl Write, summary: &Summary) -> Result<()> {
    let header = ["layer", "operator", "output", "parameters", "multiply-adds", "sees"].map(String::from);
    let rows = summary.layers.iter().map(|layer| {
        [
            layer.name.clone(),
            layer.operator.clone(),
            layer.shape.clone(),
            dash_if_zero(layer.parameters as u64),
            dash_if_zero(layer.multiply_adds),
            layer.receptive_field.map_or("all".into(), |size| format!("{size}×{size}")),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let [name, operator, shape, parameters, multiply_adds, sees] = row;
        let line = format!(
            "{name:<0$}  {operator:<1$}  {shape:>2$}  {parameters:>3$}  {multiply_adds:>4$}  {sees:>5$}",
            widths[0], widths[1], widths[2], widths[3], widths[4], widths[5]
        );
        writeln!(out, "{line}")?;
    }
    let (parameters, multiply_adds) = (grouped(summary.parameters as f64), grouped(summary.multiply_adds as f64));
    writeln!(out, "\n{}: {parameters} parameters, {multiply_adds} multiply-adds per image", summary.model)?;
    if summary.evaluated_parameters < summary.parameters {
        let evaluated = grouped(summary.evaluated_parameters as f64);
        writeln!(out, "{evaluated} parameters without the heads that only help training")?;
    }
    let Memory { batch_size, parameters_mb, activations_mb, evaluation_mb } = summary.memory;
    writeln!(
        out,
        "memory at batch {batch_size}: {:.1} MB in training (parameters {parameters_mb:.1}, activations \
         {activations_mb:.1}, gradients of both included), {evaluation_mb:.1} MB in evaluation",
        parameters_mb + activations_mb
    )?;
    Ok(())
}

fn dash_if_zero(number: u64) -> String {
    if number == 0 { "–".into() } else { grouped(number as f64) }
}

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
use crate::report::grouped;

#[derive(Args)]
pub struct SummaryArgs {
    /// Network; without one, all are listed [default with --plan: mnist-cnn]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Show the training step instead: its parts with what is fused, their buffers, and what a CUDA device runs for them
    #[arg(long)]
    plan: bool,
    /// Images per step, with --plan
    #[arg(long, value_name = "N", value_parser = flags::batch_size, default_value = "64", requires = "plan")]
    batch_size: usize,
    /// Arithmetic, with --plan
    #[arg(long, value_enum, value_name = "PRECISION", default_value = "fp32", requires = "plan")]
    precision: Precision,
    /// How convolutions and linear layers are computed, with --plan; auto takes the fewest launches
    #[arg(long, value_enum, value_name = "ALGORITHM", default_value = "auto", requires = "plan")]
    conv_algo: ConvAlgo,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    model: String,
    layers: Vec<Layer>,
    parameters: usize,
    multiply_adds: u64,
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
                plan::print(&mut out, &network, args.batch_size, (args.precision, args.conv_algo), args.json)?;
                return Ok(ExitCode::SUCCESS);
            }
            let summary = summarise(&network)?;
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

fn summarise(network: &Network) -> Result<Summary> {
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
        multiply_adds: network.multiply_adds()?,
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
    Ok(())
}

fn dash_if_zero(number: u64) -> String {
    if number == 0 { "–".into() } else { grouped(number as f64) }
}

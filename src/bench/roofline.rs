//! The roofline of a training step: the operators fused into each part, their buffers and CUDA launches, and the least
//! time that arithmetic, memory and launches allow.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::algorithms::{self, Chosen};
use super::data_sheet::{LAUNCH, h200_microseconds};
use crate::network::Network;
use crate::ops::{Precision, Step};
use crate::plan::{Cost, Mode, Plan, Sequence, TrainSettings, ValueId};

/// The parts of a training step, with their estimated times.
#[derive(Serialize)]
pub struct PlanSummary {
    model: String,
    batch_size: usize,
    precision: Precision,
    parts: Vec<Row>,
    /// Megabytes of activations and their gradients in fp32; buffers may share memory.
    arena_mb: f64,
    /// Nodes of the step's CUDA graph.
    graph_nodes: usize,
    h200_microseconds: f64,
    /// The device that chose the algorithms.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<Chosen>,
}

#[derive(Serialize)]
struct Row {
    label: String,
    what: String,
    /// Indices of the plan's buffers.
    reads: Vec<usize>,
    writes: Vec<usize>,
    megaflops: f64,
    /// Every operand counted once, in the precision's storage type.
    megabytes: f64,
    launches: Vec<String>,
    /// Lower bound from arithmetic, memory and launches.
    h200_microseconds: f64,
}

impl PlanSummary {
    /// Describes a training step over `batch_size` images. `launches` are the CUDA launches of each part, with the
    /// algorithms that `device` has chosen, if there is one.
    pub fn new(
        network: &Network,
        batch_size: usize,
        precision: Precision,
        launches: Vec<Vec<String>>,
        device: Option<String>,
        algorithms: Vec<Chosen>,
    ) -> Result<Self> {
        let plan = Plan::new(network, Mode::Training, batch_size)?;
        let sequence = Sequence::TrainStep(TrainSettings::default());
        let (over_values, steps) = (plan.sequence(&sequence), plan.steps(&sequence, batch_size));
        let parts = over_values.iter().zip(&steps).zip(launches);
        let parts: Vec<Row> =
            parts.map(|((values, step), launches)| row(&plan, values, step, precision, launches)).collect();
        Ok(Self {
            model: network.name.clone(),
            batch_size,
            precision,
            arena_mb: plan.memory_sizes(false).arena as f64 * 4e-6,
            graph_nodes: parts.iter().map(|row| row.launches.len()).sum(),
            h200_microseconds: parts.iter().map(|row| row.h200_microseconds).sum(),
            parts,
            device,
            algorithms,
        })
    }
}

fn row(plan: &Plan, values: &Step<ValueId>, step: &Step, precision: Precision, launches: Vec<String>) -> Row {
    let cost = Cost::stored(&step.op, precision);
    // Parameters are not listed, because the layer's name identifies them.
    let is_planned = |value: &ValueId| plan.span(*value, 1).region.is_planned();
    let planned = |values: Vec<ValueId>| values.into_iter().filter(is_planned).collect();
    let operands = values.op.operands();
    Row {
        label: step.label.clone(),
        what: operands.describe(),
        reads: planned(operands.reads()),
        writes: planned(operands.writes()),
        megaflops: cost.flops / 1e6,
        megabytes: cost.bytes / 1e6,
        h200_microseconds: h200_microseconds(cost, precision, launches.len()),
        launches,
    }
}

/// Prints the summary as a table.
pub fn print(out: &mut impl Write, summary: &PlanSummary) -> Result<()> {
    let header = ["part", "operators", "buffers", "MFLOP", "MB", "H200 µs", "CUDA launches"].map(String::from);
    let mut rows = vec![header];
    rows.extend(summary.parts.iter().map(|row| {
        let list = |buffers: &[usize]| buffers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        [
            row.label.clone(),
            row.what.clone(),
            format!("{} → {}", list(&row.reads), list(&row.writes)).trim().to_string(),
            format!("{:.1}", row.megaflops),
            format!("{:.2}", row.megabytes),
            format!("{:.1}", row.h200_microseconds),
            row.launches.join(", "),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    for [part, what, buffers, flops, bytes, time, launches] in &rows {
        writeln!(
            out,
            "{part:<0$}  {what:<1$}  {buffers:<2$}  {flops:>3$}  {bytes:>4$}  {time:>5$}  {launches}",
            widths[0], widths[1], widths[2], widths[3], widths[4], widths[5]
        )?;
    }
    let PlanSummary { model, batch_size, precision, graph_nodes, arena_mb, h200_microseconds, .. } = summary;
    writeln!(
        out,
        "\n{model}, batch {batch_size}, {precision}: {graph_nodes} nodes in the graph of a training step on CUDA; \
         {arena_mb:.1} MB of buffers"
    )?;
    writeln!(
        out,
        "H200 µs is a lower bound from the data sheet, with {:.1} µs per launch: \
         {h200_microseconds:.0} in total",
        LAUNCH * 1e6
    )?;
    if let Some(device) = &summary.device {
        writeln!(out, "\nalgorithms chosen on {device}:")?;
        algorithms::print(out, &summary.algorithms)?;
    }
    Ok(())
}

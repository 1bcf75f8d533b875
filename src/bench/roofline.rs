//! The roofline of a training step: what is fused into each of its parts, their buffers, the least time that arithmetic,
//! memory and launches allow, and what a CUDA device launches for them.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::algorithms::{self, Chosen};
use crate::network::Network;
use crate::ops::{Choice, Precision, Step};
use crate::plan::{Cost, Mode, Plan, Sequence, TrainSettings, ValueId};

/// What NVIDIA's data sheet gives for an H200 (SXM, dense products): bytes a second of its memory, operations a second.
const BYTES_PER_SECOND: f64 = 4.8e12;

fn operations_per_second(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 67e12,
        Precision::Tf32 => 494e12,
        Precision::Fp16 => 989e12,
    }
}

/// Seconds from one small kernel's beginning to the next one's in a graph, about.
const LAUNCH: f64 = 1.3e-6;

/// A training step.
#[derive(Serialize)]
pub struct PlanSummary {
    model: String,
    batch_size: usize,
    precision: Precision,
    parts: Vec<Row>,
    /// Megabytes of activations and their gradients in fp32, as the plan lays them out.
    arena_mb: f64,
    /// Nodes of the captured step.
    graph_nodes: usize,
    h200_microseconds: f64,
    /// Whose choices these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<Chosen>,
}

#[derive(Serialize)]
struct Row {
    label: String,
    what: String,
    /// Numbers of the plan's buffers.
    reads: Vec<usize>,
    writes: Vec<usize>,
    megaflops: f64,
    /// Of every operand, once, in fp32.
    megabytes: f64,
    launches: Vec<String>,
    /// At the least, by arithmetic, memory and launches.
    h200_microseconds: f64,
}

impl PlanSummary {
    /// Of a training step over `batch_size` images. `launches` are what a CUDA device launches for each of its steps;
    /// `choices` are those of a device, which they were found with.
    pub fn new(
        network: &Network,
        batch_size: usize,
        precision: Precision,
        launches: Vec<Vec<String>>,
        device: Option<String>,
        choices: Vec<Choice>,
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
            algorithms: choices.into_iter().map(Chosen::from).collect(),
        })
    }
}

fn row(plan: &Plan, values: &Step<ValueId>, step: &Step, precision: Precision, launches: Vec<String>) -> Row {
    let Cost { flops, bytes } = Cost::of(&step.op);
    let work = (flops / operations_per_second(precision)).max(bytes / BYTES_PER_SECOND);
    // Parameters have names of their own.
    let is_planned = |value: &ValueId| plan.span(*value, 1).region.is_planned();
    let planned = |values: Vec<ValueId>| values.into_iter().filter(is_planned).collect();
    let operands = values.op.operands();
    Row {
        label: step.label.clone(),
        what: operands.describe(),
        reads: planned(operands.reads()),
        writes: planned(operands.writes()),
        megaflops: flops / 1e6,
        megabytes: bytes / 1e6,
        h200_microseconds: (work + LAUNCH * launches.len() as f64) * 1e6,
        launches,
    }
}

/// Prints it as a table.
pub fn print(out: &mut impl Write, summary: &PlanSummary) -> Result<()> {
    let header = ["part", "what", "buffers", "MFLOP", "MB", "H200 µs", "CUDA launches"].map(String::from);
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
        "H200 µs is an estimate from its data sheet, {LAUNCH:.1e} s a launch and bytes in fp32: at least \
         {h200_microseconds:.0} in all"
    )?;
    if let Some(device) = &summary.device {
        writeln!(out, "\nas chosen on {device}:")?;
        algorithms::print(out, &summary.algorithms)?;
    }
    Ok(())
}

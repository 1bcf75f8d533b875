//! `cnn-cuda bench --algorithms`: the times of every layer's candidates, which are algorithms and tiles, the least time
//! that its work allows, and which candidate was chosen.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::data_sheet::h200_microseconds;
use crate::ops::{Choice, Precision, Step};
use crate::plan::Cost;

/// The candidate chosen for an operator.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// The operator with its shape, batch size and precision.
    site: String,
    /// The parts of the step that run it.
    parts: Vec<String>,
    megaflops: f64,
    /// Every operand counted once, in the precision's storage type.
    megabytes: f64,
    /// Lower bound from arithmetic, memory and one launch.
    h200_microseconds: f64,
    /// The name of the chosen candidate.
    algorithm: String,
    /// Time of every candidate by its name, if they were measured on this device.
    microseconds: BTreeMap<String, f64>,
}

/// The choices of a program, in the order of its steps. `sites` are the sites of its steps.
pub fn chosen(steps: &[Step], sites: &[Option<String>], choices: &[Choice], precision: Precision) -> Vec<Chosen> {
    let mut all: Vec<Chosen> = Vec::new();
    for (step, site) in steps.iter().zip(sites) {
        let Some(choice) = choices.iter().find(|choice| Some(&choice.site) == site.as_ref()) else { continue };
        if let Some(chosen) = all.iter_mut().find(|chosen| chosen.site == choice.site) {
            chosen.parts.push(step.label.clone());
            continue;
        }
        let cost = Cost::stored(&step.op, precision);
        let times = choice.microseconds.iter().map(|(candidate, time)| (candidate.to_string(), *time));
        all.push(Chosen {
            site: choice.site.clone(),
            parts: vec![step.label.clone()],
            megaflops: cost.flops / 1e6,
            megabytes: cost.bytes / 1e6,
            h200_microseconds: h200_microseconds(cost, precision, 1),
            algorithm: choice.candidate.to_string(),
            microseconds: times.collect(),
        });
    }
    all
}

/// Columns of the terminal that a line may take.
const LINE: usize = 110;

/// The parts in lines, separated by commas.
fn wrapped(parts: &[String]) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for part in parts {
        if !text.is_empty() {
            let fits = column + 2 + part.len() < LINE;
            text += if fits { ", " } else { ",\n" };
            column = if fits { column + 2 } else { 0 };
        }
        text += part;
        column += part.len();
    }
    text
}

/// Prints every operator, followed by its candidates, the fastest first.
pub fn print(out: &mut impl Write, all: &[Chosen]) -> Result<()> {
    let names = all.iter().flat_map(|chosen| chosen.microseconds.keys().chain([&chosen.algorithm]));
    let width = names.map(String::len).max().unwrap_or(0);
    writeln!(out, "µs of every algorithm, the fastest first; * is the one that is used")?;
    for chosen in all {
        let Chosen { site, parts, megaflops, megabytes, h200_microseconds, .. } = chosen;
        writeln!(out, "\n{}", wrapped(parts))?;
        writeln!(out, "{site}")?;
        writeln!(out, "{megaflops:.1} MFLOP, {megabytes:.2} MB, at least {h200_microseconds:.1} µs on an H200")?;
        let is_chosen = |name: &str| name == chosen.algorithm;
        let mut times: Vec<(&str, f64)> = chosen.microseconds.iter().map(|(name, &time)| (&**name, time)).collect();
        // Of equally fast ones, the chosen one comes first.
        times.sort_by_key(|(name, _)| !is_chosen(name));
        times.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        if times.is_empty() {
            writeln!(out, "* {}", chosen.algorithm)?;
        }
        let cell = |(name, time): (&str, f64)| {
            let mark = if is_chosen(name) { '*' } else { ' ' };
            format!("{mark} {name:<width$} {time:>8.1}")
        };
        let cells: Vec<String> = times.into_iter().map(cell).collect();
        for line in cells.chunks((LINE / (width + 14)).max(1)) {
            writeln!(out, "{}", line.join("   "))?;
        }
    }
    Ok(())
}

//! `cnn-cuda bench --algorithms`: the times of every layer's algorithms, and which one was chosen.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::ops::{Algorithm, Choice};

/// The algorithm chosen for one operator.
#[derive(Debug, Serialize)]
pub struct Chosen {
    pub site: String,
    pub algorithm: &'static str,
    /// Time of every candidate, if they were measured on this device.
    pub microseconds: BTreeMap<&'static str, f64>,
}

impl From<Choice> for Chosen {
    fn from(choice: Choice) -> Self {
        let times = choice.microseconds.into_iter().map(|(algorithm, time)| (algorithm.name(), time));
        Self { site: choice.site, algorithm: choice.algorithm.name(), microseconds: times.collect() }
    }
}

/// Prints a table with one row per operator, in the order of `all`.
pub fn print(out: &mut impl Write, all: &[Chosen]) -> Result<()> {
    let width = all.iter().map(|chosen| chosen.site.len()).max().unwrap_or(0);
    let names = Algorithm::ALL.map(Algorithm::name);
    write!(out, "{:<width$}", "operator")?;
    names.iter().try_for_each(|name| write!(out, "  {:>11}", format!("{name} µs")))?;
    writeln!(out, "  chosen")?;
    for chosen in all {
        write!(out, "{:<width$}", chosen.site)?;
        for name in names {
            let time = chosen.microseconds.get(name).map_or("-".into(), |time| format!("{time:.1}"));
            write!(out, "  {time:>11}")?;
        }
        writeln!(out, "  {}", chosen.algorithm)?;
    }
    Ok(())
}

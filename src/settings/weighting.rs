//! Weights of classes in the training loss: balanced, or from a file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::data::absolute_path;
use super::suggestion;

/// Larger files are not read.
const MAX_BYTES: u64 = 64 << 20;

/// `--class-weights`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ClassWeights {
    /// n / (classes · images of the class), as scikit-learn's `compute_class_weight`.
    Balanced,
    /// A TOML file of lines `class = weight`.
    File(PathBuf),
}

impl FromStr for ClassWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "balanced" => Ok(Self::Balanced),
            "" => Err("it must be balanced, or the path of a file".into()),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl TryFrom<String> for ClassWeights {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balanced => f.write_str("balanced"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl From<ClassWeights> for String {
    fn from(weights: ClassWeights) -> Self {
        weights.to_string()
    }
}

impl ClassWeights {
    /// The same with an absolute path.
    pub(super) fn absolute(&self) -> Result<Self> {
        Ok(match self {
            Self::Balanced => Self::Balanced,
            Self::File(path) => Self::File(absolute_path(path)?),
        })
    }

    /// The weight of each class, for training images with these labels.
    ///
    /// # Errors
    /// A class without training images, or a file that cannot be read or does not have one finite weight of at least 0
    /// for each class.
    pub fn resolve(&self, classes: &[String], labels: &[u32]) -> Result<Vec<f32>> {
        match self {
            Self::Balanced => balanced(classes, labels).context("--class-weights balanced"),
            Self::File(path) => read(path, classes).with_context(|| format!("--class-weights {}", path.display())),
        }
    }
}

fn balanced(classes: &[String], labels: &[u32]) -> Result<Vec<f32>> {
    let mut counts = vec![0_usize; classes.len()];
    for &label in labels {
        *counts.get_mut(label as usize).with_context(|| format!("there is no class {label}"))? += 1;
    }
    let weight = |(class, &count): (&String, &usize)| {
        ensure!(count > 0, "the class {class:?} has no training images, so its weight would be infinite; use a file");
        Ok((labels.len() as f64 / (classes.len() * count) as f64) as f32)
    };
    classes.iter().zip(&counts).map(weight).collect()
}

fn read(path: &Path, classes: &[String]) -> Result<Vec<f32>> {
    let metadata = fs::metadata(path).context("cannot read it")?;
    ensure!(metadata.is_file() && metadata.len() <= MAX_BYTES, "this is not a file of class weights");
    let text = fs::read_to_string(path).context("cannot read it")?;
    let table: Table = toml::from_str(&text).map_err(|error| anyhow!("it must have lines class = weight: {error}"))?;
    let mut weights = BTreeMap::new();
    for (class, value) in &table {
        let known = classes.iter().any(|known| known == class);
        let names = || suggestion(class, classes.iter().map(String::as_str));
        ensure!(known, "the data set has no class {class:?}{}", names());
        weights.insert(class, number(value).with_context(|| format!("the weight of {class:?} is {value}"))?);
    }
    ensure!(weights.values().any(|&weight| weight > 0.0), "all weights are 0");
    let weight = |class| weights.get(class).copied().with_context(|| format!("the class {class:?} has no weight"));
    classes.iter().map(weight).collect()
}

/// A finite number of at least 0.
fn number(value: &Value) -> Result<f32> {
    let number = match value {
        Value::Integer(number) => Some(*number as f32),
        Value::Float(number) => Some(*number as f32),
        _ => None,
    };
    number.filter(|number| number.is_finite() && *number >= 0.0).context("it must be a finite number of at least 0")
}

/// # Errors
/// Weights of a run's configuration that are not those of its classes.
pub fn check_weights(weights: &[f32], classes: usize) -> Result<()> {
    let valid = weights.len() == classes && weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
    ensure!(valid, "the value of loss-weights cannot be used: it must have a weight of at least 0 for each class");
    Ok(())
}

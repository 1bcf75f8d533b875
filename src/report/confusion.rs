//! The confusion matrix: counts of true and predicted classes, accuracies, and their table.

use std::io::Write;

use anyhow::{Context, Result};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::console::percent;

/// With more classes, the matrix would not fit a terminal, so the most frequent mistakes are listed instead.
const MAX_MATRIX_CLASSES: usize = 20;
const LISTED_MISTAKES: usize = 10;
/// In columns of a terminal. Longer names are shortened in the column headers; the rows show them in full.
const MAX_HEADER: usize = 6;

/// Counts of samples, as `[true class][predicted class]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    counts: Vec<u64>,
    classes: Vec<String>,
}

impl Confusion {
    pub fn new(classes: Vec<String>) -> Self {
        Self { counts: vec![0; classes.len() * classes.len()], classes }
    }

    /// Counts one sample.
    ///
    /// # Panics
    /// If a label is not below the number of classes. A data set's labels are checked when it is loaded.
    pub fn add(&mut self, true_label: u32, predicted: u32) {
        let (truth, predicted, n) = (true_label as usize, predicted as usize, self.classes.len());
        assert!(truth < n && predicted < n, "classes {truth} and {predicted} of {n}");
        self.counts[truth * n + predicted] += 1;
    }

    pub fn count(&self, true_label: usize, predicted: usize) -> u64 {
        self.counts[true_label * self.classes.len() + predicted]
    }

    /// The fraction of samples that were classified correctly; `None` without samples.
    pub fn accuracy(&self) -> Option<f64> {
        let correct = (0..self.classes.len()).map(|class| self.count(class, class)).sum();
        ratio(correct, self.counts.iter().sum())
    }

    /// The recall of each class: the fraction of its samples that were classified correctly; `None` without samples.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let recall = |(class, row): (usize, &[u64])| ratio(row[class], row.iter().sum());
        self.rows().enumerate().map(recall).collect()
    }

    /// Prints the matrix (for many classes, the most frequent mistakes) and the accuracy of each class.
    ///
    /// # Errors
    /// Writing to `out` fails.
    pub fn print(&self, out: &mut impl Write) -> Result<()> {
        let text = if self.classes.len() <= MAX_MATRIX_CLASSES { self.matrix() } else { self.mistakes() };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot print the confusion matrix")
    }

    fn rows(&self) -> std::slice::ChunksExact<'_, u64> {
        self.counts.chunks_exact(self.classes.len().max(1)) // chunks of 0 would panic
    }

    fn matrix(&self) -> String {
        let headers: Vec<String> = self.classes.iter().map(|name| shortened(name)).collect();
        let name_width = self.name_width("true \\ predicted");
        let count_width = self.counts.iter().map(|count| count.to_string().len()).max().unwrap_or(0);
        let width = headers.iter().map(|header| header.width()).max().unwrap_or(0).max(count_width) + 2;
        let mut text = format!("{:<name_width$}", "true \\ predicted");
        text.extend(headers.iter().map(|header| " ".repeat(width - header.width()) + header));
        text += "  accuracy\n";
        for ((name, row), recall) in self.classes.iter().zip(self.rows()).zip(self.per_class()) {
            text += &padded(name, name_width);
            text.extend(row.iter().map(|count| format!("{count:>width$}")));
            text += &format!("{:>10}\n", or_dash(recall));
        }
        text + &format!("accuracy {}\n", or_dash(self.accuracy()))
    }

    fn mistakes(&self) -> String {
        let n = self.classes.len();
        let name_width = self.name_width("class");
        let mut text = format!("{:<name_width$}  accuracy\n", "class");
        for (name, recall) in self.classes.iter().zip(self.per_class()) {
            text += &format!("{}{:>10}\n", padded(name, name_width), or_dash(recall));
        }
        text += &format!("accuracy {}\n", or_dash(self.accuracy()));
        let mut wrong: Vec<usize> =
            (0..self.counts.len()).filter(|&at| at / n != at % n && self.counts[at] > 0).collect();
        wrong.sort_by_key(|&at| std::cmp::Reverse(self.counts[at])); // stable: ties stay in the order of classes
        for &at in wrong.iter().take(LISTED_MISTAKES) {
            text += &format!("{} classified as {}: {}\n", self.classes[at / n], self.classes[at % n], self.counts[at]);
        }
        text
    }

    fn name_width(&self, header: &str) -> usize {
        self.classes.iter().map(|name| name.width()).chain([header.len()]).max().unwrap_or(0)
    }
}

/// The matrix as rows, with the accuracies.
impl Serialize for Confusion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Confusion", 4)?;
        fields.serialize_field("classes", &self.classes)?;
        fields.serialize_field("counts", &self.rows().collect::<Vec<_>>())?;
        fields.serialize_field("accuracy", &self.accuracy())?;
        fields.serialize_field("per_class", &self.per_class())?;
        fields.end()
    }
}

fn ratio(count: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| count as f64 / total as f64)
}

fn or_dash(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(|| "–".to_string(), percent)
}

/// Pads a name to a width in columns of a terminal, in which some characters take two.
fn padded(name: &str, width: usize) -> String {
    name.to_string() + &" ".repeat(width.saturating_sub(name.width()))
}

fn shortened(name: &str) -> String {
    if name.width() <= MAX_HEADER {
        return name.to_string();
    }
    let mut width = 0;
    let fits = |c: &char| {
        width += c.width().unwrap_or(0);
        width < MAX_HEADER
    };
    name.chars().take_while(fits).chain(['…']).collect()
}

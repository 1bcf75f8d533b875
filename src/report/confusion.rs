//! The confusion matrix: counts of true and predicted classes, scores, and their table.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::console::percent;
use crate::files::printable;

/// With more classes, the matrix would not fit a terminal, so the most frequent mistakes are listed instead.
const MAX_MATRIX_CLASSES: usize = 20;
const LISTED_MISTAKES: usize = 10;
/// In columns of a terminal. Longer names are shortened in the column headers; the rows show them in full.
const MAX_HEADER: usize = 6;

/// Counts of samples by true and predicted class.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    /// The counts that are not 0: with many classes, nearly all are.
    counts: BTreeMap<(usize, usize), u64>,
    classes: Vec<String>,
}

/// The scores of a class, as scikit-learn defines them, but `None` where it would divide by zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassScores {
    /// The fraction of its samples that were recognised.
    pub recall: Option<f64>,
    /// The fraction of the predictions of this class that were right.
    pub precision: Option<f64>,
    /// The harmonic mean of both.
    pub f1: Option<f64>,
}

impl ClassScores {
    const HEADER: &str = "    recall  precision        F1\n";

    fn row(self) -> String {
        format!("{:>10}{:>11}{:>10}\n", or_dash(self.recall), or_dash(self.precision), or_dash(self.f1))
    }
}

impl Confusion {
    pub fn new(classes: Vec<String>) -> Self {
        Self { counts: BTreeMap::new(), classes }
    }

    /// Counts one sample.
    ///
    /// # Panics
    /// If a label is not below the number of classes. A data set's labels are checked when it is loaded.
    pub fn add(&mut self, true_label: u32, predicted: u32) {
        let (truth, predicted, n) = (true_label as usize, predicted as usize, self.classes.len());
        assert!(truth < n && predicted < n, "classes {truth} and {predicted} of {n}");
        *self.counts.entry((truth, predicted)).or_default() += 1;
    }

    pub fn count(&self, true_label: usize, predicted: usize) -> u64 {
        self.counts.get(&(true_label, predicted)).copied().unwrap_or(0)
    }

    /// The names of the classes, by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The counts that are not 0, by true and predicted class.
    pub fn counts(&self) -> impl Iterator<Item = ((usize, usize), u64)> + '_ {
        self.counts.iter().map(|(&classes, &count)| (classes, count))
    }

    /// The samples of each class.
    pub fn samples(&self) -> Vec<u64> {
        let mut samples = vec![0; self.classes.len()];
        self.counts().for_each(|((truth, _), count)| samples[truth] += count);
        samples
    }

    /// The counts of mistakes, the most frequent first, by true and predicted class.
    pub fn frequent_mistakes(&self) -> Vec<((usize, usize), u64)> {
        let mut wrong: Vec<_> = self.counts().filter(|((truth, predicted), _)| truth != predicted).collect();
        wrong.sort_by_key(|&(_, count)| std::cmp::Reverse(count)); // stable: ties stay in the order of classes
        wrong
    }

    /// The fraction of samples that were classified correctly; `None` without samples.
    pub fn accuracy(&self) -> Option<f64> {
        let correct = (0..self.classes.len()).map(|class| self.count(class, class)).sum();
        ratio(correct, self.counts.values().sum())
    }

    /// How well each class is recognised.
    pub fn per_class(&self) -> Vec<ClassScores> {
        let mut totals = vec![[0; 2]; self.classes.len()];
        for (&(truth, predicted), count) in &self.counts {
            totals[truth][0] += count;
            totals[predicted][1] += count;
        }
        let scores = totals.into_iter().enumerate().map(|(class, [samples, predictions])| {
            let correct = self.count(class, class);
            ClassScores {
                recall: ratio(correct, samples),
                precision: ratio(correct, predictions),
                f1: ratio(2 * correct, samples + predictions),
            }
        });
        scores.collect()
    }

    /// The mean F1 score of the classes that have samples; `None` without samples.
    pub fn macro_f1(&self) -> Option<f64> {
        let scores = self.per_class();
        let scores: Vec<f64> = scores.iter().filter(|it| it.recall.is_some()).filter_map(|it| it.f1).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// Prints the matrix (for many classes, the most frequent mistakes) and the scores of each class.
    ///
    /// # Errors
    /// Writing to `out` fails.
    pub fn print(&self, out: &mut impl Write) -> Result<()> {
        let text = if self.classes.len() <= MAX_MATRIX_CLASSES { self.matrix() } else { self.mistakes() };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot print the confusion matrix")
    }

    /// The names for a terminal.
    fn names(&self) -> Vec<String> {
        self.classes.iter().map(|name| printable(name).into_owned()).collect()
    }

    fn matrix(&self) -> String {
        let names = self.names();
        let headers: Vec<String> = names.iter().map(|name| shortened(name)).collect();
        let name_width = name_width(&names, "true \\ predicted");
        let count_width = self.counts.values().map(|count| count.to_string().len()).max().unwrap_or(1);
        let width = headers.iter().map(|header| header.width()).max().unwrap_or(0).max(count_width) + 2;
        let mut text = format!("{:<name_width$}", "true \\ predicted");
        text.extend(headers.iter().map(|header| " ".repeat(width - header.width()) + header));
        text += ClassScores::HEADER;
        for ((truth, name), scores) in names.iter().enumerate().zip(self.per_class()) {
            text += &padded(name, name_width);
            text.extend((0..names.len()).map(|predicted| format!("{:>width$}", self.count(truth, predicted))));
            text += &scores.row();
        }
        text + &self.totals()
    }

    fn totals(&self) -> String {
        format!("accuracy {}, macro F1 {}\n", or_dash(self.accuracy()), or_dash(self.macro_f1()))
    }

    fn mistakes(&self) -> String {
        let names = self.names();
        let name_width = name_width(&names, "class");
        let mut text = format!("{:<name_width$}{}", "class", ClassScores::HEADER);
        for (name, scores) in names.iter().zip(self.per_class()) {
            text += &(padded(name, name_width) + &scores.row());
        }
        text += &self.totals();
        for ((truth, predicted), count) in self.frequent_mistakes().into_iter().take(LISTED_MISTAKES) {
            text += &format!("{} classified as {}: {count}\n", names[truth], names[predicted]);
        }
        text
    }
}

/// A column of numbers of all classes.
fn column(scores: &[ClassScores], of: fn(&ClassScores) -> Option<f64>) -> Vec<Option<f64>> {
    scores.iter().map(of).collect()
}

/// A row of the matrix.
struct Row<'a> {
    confusion: &'a Confusion,
    truth: usize,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let classes = 0..self.confusion.classes.len();
        serializer.collect_seq(classes.map(|predicted| self.confusion.count(self.truth, predicted)))
    }
}

/// The rows of the matrix, which are written one after the other.
struct Rows<'a>(&'a Confusion);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let classes = 0..self.0.classes.len();
        serializer.collect_seq(classes.map(|truth| Row { confusion: self.0, truth }))
    }
}

/// The matrix as rows, with the scores.
impl Serialize for Confusion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let scores = self.per_class();
        let mut fields = serializer.serialize_struct("Confusion", 7)?;
        fields.serialize_field("classes", &self.classes)?;
        fields.serialize_field("counts", &Rows(self))?;
        fields.serialize_field("accuracy", &self.accuracy())?;
        fields.serialize_field("macro_f1", &self.macro_f1())?;
        // The recall has the name by which earlier versions wrote it.
        fields.serialize_field("per_class", &column(&scores, |it| it.recall))?;
        fields.serialize_field("precision", &column(&scores, |it| it.precision))?;
        fields.serialize_field("f1", &column(&scores, |it| it.f1))?;
        fields.end()
    }
}

fn name_width(names: &[String], header: &str) -> usize {
    names.iter().map(|name| name.width()).chain([header.len()]).max().unwrap_or(0)
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

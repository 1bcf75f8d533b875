//! Console output during training: one line per epoch on stdout; progress on stderr, as a bar or as lines.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::records::EpochRecord;

/// A table with one aligned line per epoch. Each line is flushed, so that it passes through a pipe at once.
pub struct Table<W: Write> {
    out: W,
    has_val: bool,
}

impl<W: Write> Table<W> {
    /// Prints the header, with columns for a validation set if there is one.
    ///
    /// # Errors
    /// Writing to `out` fails, as for every method.
    pub fn new(out: W, has_val: bool) -> Result<Self> {
        let mut table = Self { out, has_val };
        let val = ["val loss", "val acc"].map(String::from);
        table.cells("epoch", &["train loss", "train acc"], val, &["test loss", "test acc", "seconds", "images/s"])?;
        Ok(table)
    }

    pub fn row(&mut self, record: &EpochRecord) -> Result<()> {
        let [val_loss, val_accuracy] = [record.val_loss, record.val_accuracy].map(|it| it.unwrap_or(f64::NAN));
        let rest = [
            loss(record.test_loss),
            percent(record.test_accuracy),
            format!("{:.2}", record.seconds),
            grouped(record.images_per_second),
        ];
        let val = [loss(val_loss), percent(val_accuracy)];
        self.cells(&record.epoch.to_string(), &[loss(record.train_loss), percent(record.train_accuracy)], val, &rest)
    }

    fn cells<S: Display>(&mut self, epoch: &str, train: &[S; 2], val: [String; 2], rest: &[S; 4]) -> Result<()> {
        let ([train_loss, train_accuracy], [val_loss, val_accuracy]) = (train, val);
        let [test_loss, test_accuracy, seconds, rate] = rest;
        let val = if self.has_val { format!("{val_loss:>10}  {val_accuracy:>9}  ") } else { String::new() };
        self.line(format_args!(
            "{epoch:>5}  {train_loss:>10}  {train_accuracy:>9}  {val}{test_loss:>10}  {test_accuracy:>9}  {seconds:>9}  {rate:>10}"
        ))
    }

    fn line(&mut self, line: std::fmt::Arguments) -> Result<()> {
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).context("cannot print the table of epochs")
    }
}

/// Formats `0.9825` as `98.25%`.
pub fn percent(part: f64) -> String {
    format!("{:.2}%", 100.0 * part)
}

/// Formats a loss with four decimals, or with an exponent if it would not fit its column.
pub fn loss(value: f64) -> String {
    if value.abs() < 1e5 || !value.is_finite() { format!("{value:.4}") } else { format!("{value:.2e}") }
}

/// Rounds a number to an integer and groups its digits by three: `48,774`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 && number.is_finite() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Lines of progress within long epochs, without control characters.
pub struct ProgressLines<W: Write> {
    out: W,
    /// Time between two lines.
    every: Duration,
    last: Instant,
}

impl<W: Write> ProgressLines<W> {
    pub fn new(out: W, every: Duration) -> Self {
        Self { out, every, last: Instant::now() }
    }

    /// Prints a line if it is time for one. The epoch is counted from 1.
    pub fn step(&mut self, [epoch, epochs]: [u32; 2], [step, steps]: [u64; 2], loss_and_rate: [Option<f64>; 2]) {
        if self.last.elapsed() < self.every {
            return;
        }
        self.last = Instant::now();
        let [mean_loss, rate] = loss_and_rate;
        let mean_loss = mean_loss.map_or(String::new(), |value| format!("  loss {}", loss(value)));
        let rate = rate.map_or(String::new(), |rate| format!("  {} images/s", grouped(rate)));
        // Like log messages, progress that cannot be printed does not end the run.
        let _ = writeln!(self.out, "epoch {epoch}/{epochs}  step {step}/{steps}{mean_loss}{rate}");
    }

    /// An epoch ended, which has a line in the table.
    pub fn restart(&mut self) {
        self.last = Instant::now();
    }
}

/// A progress bar over the steps of one epoch. It fits 80 columns; a narrower terminal cuts off its end. It is shown
/// only if stderr is a terminal. It is erased when finished or dropped, so that an error message
/// starts on an empty line.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn new(steps_in_epoch: u64, epoch: u32, epochs: u32) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        Self::on(ProgressDrawTarget::stderr(), steps_in_epoch, epoch, epochs)
    }

    /// A progress bar on the given target.
    pub fn on(target: ProgressDrawTarget, steps_in_epoch: u64, epoch: u32, epochs: u32) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps_in_epoch), target);
        // A wrapped line would be redrawn below itself each time, so the message, whose length varies, may be cut off.
        // The template is valid; the default style only satisfies the type.
        let template = "{prefix} {bar:14} {pos}/{len}  {wide_msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style.progress_chars("━╸─")).with_finish(ProgressFinish::AndClear);
        bar.set_prefix(format!("epoch {epoch}/{epochs}"));
        Self { bar }
    }

    /// Shows that `step_in_epoch` steps are done. Values that are not known yet are left out.
    pub fn tick(&self, step_in_epoch: u64, mean_loss: Option<f64>, images_per_second: Option<f64>) {
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_position(step_in_epoch);
        let left = self.bar.eta();
        // The most important first, because the end of the line may be cut off.
        let parts = [
            mean_loss.map(|value| format!("loss {}", loss(value))),
            (!left.is_zero()).then(|| format!("{:#} left", HumanDuration(left))),
            images_per_second.map(|rate| format!("{} images/s", grouped(rate))),
        ];
        self.bar.set_message(parts.into_iter().flatten().collect::<Vec<_>>().join("  "));
    }

    /// Shows `text` next to the bar after `step_in_epoch` steps, for work after the last of them. Draws at once, because
    /// no update follows soon.
    pub fn message(&self, step_in_epoch: u64, text: &str) {
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_position(step_in_epoch);
        self.bar.set_message(text.to_string());
        self.bar.force_draw();
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

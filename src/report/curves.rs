//! `curves.svg`: training, validation and test loss and accuracy over the epochs, in one self-contained image.

use std::fmt::Write;

use super::axis::Axis;
use super::console::percent;
use super::page::escape;
use super::records::{EpochRecord, best_epoch};
use crate::train::Monitor;

pub(super) const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
pub(super) const PLOT_WIDTH: f64 = 330.0;
pub(super) const PLOT_TOP: f64 = 108.0;
pub(super) const PLOT_BOTTOM: f64 = 350.0;
/// Left edges of the two plots.
pub(super) const PLOT_LEFTS: [f64; 2] = [64.0, 540.0];
/// With more epochs, a dot per epoch would hide the line.
const MAX_DOTS: usize = 40;
/// Labels that are closer would overlap.
const LABEL_GAP: f64 = 15.0;
pub(super) const TICKS: usize = 5;

/// Text and curves have a contrast of 4.5:1 with either background, and the curves also differ in brightness.
const STYLE: &str = "\
svg { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif }
.ground { fill: #ffffff } .ink { fill: #1f2328 } .muted { fill: #59636e }
.title { font-size: 17px; font-weight: 600 } .panel { font-size: 13px; font-weight: 600 } .label { font-weight: 600 }
.grid { stroke: #d9dee4; stroke-width: 1 } .axis { stroke: #8c959f; stroke-width: 1 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.train-line { stroke: #2166c4 } .train-fill { fill: #2166c4 } .val-line { stroke: #1a7f37 } .val-fill { fill: #1a7f37 }
.test-line { stroke: #bc4c00 } .test-fill { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .ink { fill: #e6edf3 } .muted { fill: #9198a1 }
.grid { stroke: #2a313a } .axis { stroke: #6e7681 }
.train-line { stroke: #6cb0ff } .train-fill { fill: #6cb0ff } .val-line { stroke: #56d364 } .val-fill { fill: #56d364 }
.test-line { stroke: #f0883e } .test-fill { fill: #f0883e }
}";

/// The values of one split, as `(epoch, value)`.
pub(super) struct Series {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// One of the two plots.
pub(super) struct Panel<'a> {
    pub title: &'a str,
    pub left: f64,
    pub series: Vec<Series>,
    x: Axis,
    y: Axis,
    tick_suffix: &'a str,
    pub format: fn(f64) -> String,
}

/// Draws the curves of a run. Values that are not finite leave gaps. The best epoch is named, by `monitor` if given.
pub fn curves_svg(epochs: &[EpochRecord], title: &str, monitor: Option<Monitor>) -> String {
    let mut svg = opening(title, &subtitle(epochs, monitor));
    for panel in &panels(epochs) {
        panel.draw(&mut svg);
    }
    svg + "</svg>\n"
}

/// The plots of the losses and of the accuracies.
pub(super) fn panels(epochs: &[EpochRecord]) -> [Panel<'static>; 2] {
    let series = |name, value: fn(&EpochRecord) -> Option<f64>| {
        let point = |record: &EpochRecord| Some((f64::from(record.epoch), value(record)?));
        Series { name, points: epochs.iter().filter_map(point).collect() }
    };
    let losses = [
        series("train", |record| Some(record.train_loss)),
        series("val", |record| record.val_loss),
        series("test", |record| Some(record.test_loss)),
    ];
    let accuracies = [
        series("train", |record| Some(100.0 * record.train_accuracy)),
        series("val", |record| record.val_accuracy.map(|accuracy| 100.0 * accuracy)),
        series("test", |record| Some(100.0 * record.test_accuracy)),
    ];
    let with_values = |all: [Series; 3]| -> Vec<Series> {
        all.into_iter().filter(|it| it.name != "val" || !it.points.is_empty()).collect()
    };
    let [losses, accuracies] = [losses, accuracies].map(with_values);
    let x = Axis::epochs(epochs.iter().map(|record| f64::from(record.epoch)).fold(1.0, f64::max), TICKS);
    let (_, max_loss) = range(&losses).unwrap_or((0.0, 1.0));
    let (min, max) = range(&accuracies).unwrap_or((0.0, 100.0));
    let [loss_left, accuracy_left] = PLOT_LEFTS;
    [
        Panel {
            title: "Loss",
            left: loss_left,
            series: losses,
            x,
            y: Axis::around(0.0, max_loss, TICKS, (0.0, f64::MAX)),
            tick_suffix: "",
            format: super::console::loss,
        },
        Panel {
            title: "Accuracy",
            left: accuracy_left,
            series: accuracies,
            x,
            y: Axis::around(min, max, TICKS, (0.0, 100.0)),
            tick_suffix: "%",
            format: |value| percent(value / 100.0),
        },
    ]
}

pub(super) fn opening(title: &str, subtitle: &str) -> String {
    let title = escape(title);
    let [left, _] = PLOT_LEFTS;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" role=\"img\">\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n\
         <text class=\"ink title\" x=\"{left}\" y=\"34\">{title}</text>\n\
         <text class=\"muted\" x=\"{left}\" y=\"55\">{subtitle}</text>\n"
    )
}

fn subtitle(epochs: &[EpochRecord], monitor: Option<Monitor>) -> String {
    let Some(best) = best_epoch(epochs, monitor.unwrap_or(Monitor::TestAccuracy)) else {
        return "no epoch yet".to_string();
    };
    let (accuracy, epoch) = (percent(best.test_accuracy), best.epoch);
    match monitor {
        None => format!("best test accuracy {accuracy} (epoch {epoch})"),
        Some(monitor) => format!("test accuracy {accuracy} in epoch {epoch}, the best by {}", monitor.words()),
    }
}

impl Panel<'_> {
    pub fn draw(&self, svg: &mut String) {
        self.draw_axes(svg);
        self.draw_header(svg);
        for Series { name, points } in &self.series {
            self.draw_line(svg, points, name);
        }
        self.draw_last_values(svg);
    }

    pub fn x_at(&self, epoch: f64) -> f64 {
        self.left + PLOT_WIDTH * self.x.fraction(epoch)
    }

    pub fn y_at(&self, value: f64) -> f64 {
        PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * self.y.fraction(value)
    }

    fn draw_axes(&self, svg: &mut String) {
        let (left, right) = (self.left, self.left + PLOT_WIDTH);
        for tick in self.y.ticks() {
            let y = self.y_at(tick);
            push(svg, format_args!("<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>"));
            let (x, baseline, suffix) = (left - 8.0, y + 4.0, self.tick_suffix);
            let tick = self.y.tick_text(tick);
            push(
                svg,
                format_args!(
                    "<text class=\"muted\" x=\"{x}\" y=\"{baseline:.1}\" text-anchor=\"end\">{tick}{suffix}</text>"
                ),
            );
        }
        let bottom = PLOT_BOTTOM;
        push(svg, format_args!("<line class=\"axis\" x1=\"{left}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>"));
        for tick in self.x.epoch_ticks() {
            let x = self.x_at(tick);
            let (end, baseline) = (bottom + 5.0, bottom + 19.0);
            push(svg, format_args!("<line class=\"axis\" x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{end}\"/>"));
            push(
                svg,
                format_args!(
                    "<text class=\"muted\" x=\"{x:.1}\" y=\"{baseline}\" text-anchor=\"middle\">{tick:.0}</text>"
                ),
            );
        }
        let (x, baseline) = (left + PLOT_WIDTH / 2.0, bottom + 37.0);
        push(svg, format_args!("<text class=\"muted\" x=\"{x}\" y=\"{baseline}\" text-anchor=\"middle\">epoch</text>"));
    }

    /// Draws the panel's title on the left and its legend on the right.
    fn draw_header(&self, svg: &mut String) {
        let (left, baseline, middle) = (self.left, PLOT_TOP - 16.0, PLOT_TOP - 20.0);
        push(svg, format_args!("<text class=\"ink panel\" x=\"{left}\" y=\"{baseline}\">{}</text>", self.title));
        for (from_last, Series { name, .. }) in self.series.iter().rev().enumerate() {
            let start = left + PLOT_WIDTH - 55.0 - 65.0 * from_last as f64;
            let (end, text) = (start + 20.0, start + 26.0);
            push(
                svg,
                format_args!(
                    "<line class=\"line {name}-line\" x1=\"{start}\" y1=\"{middle}\" x2=\"{end}\" y2=\"{middle}\"/>"
                ),
            );
            push(svg, format_args!("<text class=\"ink\" x=\"{text}\" y=\"{baseline}\">{name}</text>"));
        }
    }

    fn draw_line(&self, svg: &mut String, points: &[(f64, f64)], name: &str) {
        let mut path = String::new();
        let mut pen_is_up = true;
        for &(epoch, value) in points {
            if value.is_finite() {
                let command = if pen_is_up { 'M' } else { 'L' };
                push(&mut path, format_args!("{command}{:.1} {:.1}", self.x_at(epoch), self.y_at(value)));
            }
            pen_is_up = !value.is_finite();
        }
        if path.is_empty() {
            return;
        }
        push(svg, format_args!("<path class=\"line {name}-line\" d=\"{}\"/>", path.trim_end()));
        let finite = points.iter().filter(|point| point.1.is_finite());
        let hidden = if points.len() > MAX_DOTS { finite.clone().count() - 1 } else { 0 };
        for &(epoch, value) in finite.skip(hidden) {
            let (x, y) = (self.x_at(epoch), self.y_at(value));
            push(svg, format_args!("<circle class=\"{name}-fill\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>"));
        }
    }

    /// Labels the end of each line with its last value. Labels that would overlap are moved apart.
    fn draw_last_values(&self, svg: &mut String) {
        let last = |series: &Series| series.points.last().copied().filter(|point| point.1.is_finite());
        let label = |series| last(series).map(|(epoch, value)| (self.y_at(value), value, series.name, epoch));
        let mut labels: Vec<(f64, f64, &str, f64)> = self.series.iter().filter_map(label).collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Every pass moves neighbours apart, which may move them closer to others.
        for _ in 1..labels.len() {
            for at in 1..labels.len() {
                let overlap = LABEL_GAP - (labels[at].0 - labels[at - 1].0);
                if overlap > 0.0 {
                    labels[at - 1].0 -= overlap / 2.0;
                    labels[at].0 += overlap / 2.0;
                }
            }
        }
        for (y, value, name, epoch) in labels {
            let (x, baseline, value) = (self.x_at(epoch) + 8.0, y + 4.0, (self.format)(value));
            push(
                svg,
                format_args!("<text class=\"label {name}-fill\" x=\"{x:.1}\" y=\"{baseline:.1}\">{value}</text>"),
            );
        }
    }
}

/// Minimum and maximum of the finite values.
fn range(series: &[Series]) -> Option<(f64, f64)> {
    let finite = series.iter().flat_map(|it| &it.points).map(|point| point.1).filter(|value| value.is_finite());
    finite.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

pub(super) fn push(text: &mut String, line: std::fmt::Arguments) {
    let _ = writeln!(text, "{line}"); // writing to a String cannot fail
}

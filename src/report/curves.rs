//! `curves.svg`: training and test loss and accuracy over the epochs, in one self-contained image.

use std::fmt::Write;

use super::axis::Axis;
use super::console::percent;
use super::records::EpochRecord;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
const PLOT_WIDTH: f64 = 330.0;
const PLOT_TOP: f64 = 108.0;
const PLOT_BOTTOM: f64 = 350.0;
/// Left edges of the two plots.
const PLOT_LEFTS: [f64; 2] = [64.0, 540.0];
/// With more epochs, a dot per epoch would hide the line.
const MAX_DOTS: usize = 40;
/// Labels that are closer would overlap.
const LABEL_GAP: f64 = 15.0;
const TICKS: usize = 5;

/// Text and curves have a contrast of 4.5:1 with either background, and the curves also differ in brightness.
const STYLE: &str = "\
svg { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif }
.ground { fill: #ffffff } .ink { fill: #1f2328 } .muted { fill: #59636e }
.title { font-size: 17px; font-weight: 600 } .panel { font-size: 13px; font-weight: 600 } .label { font-weight: 600 }
.grid { stroke: #d9dee4; stroke-width: 1 } .axis { stroke: #8c959f; stroke-width: 1 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.train-line { stroke: #2166c4 } .train-fill { fill: #2166c4 } .test-line { stroke: #bc4c00 } .test-fill { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .ink { fill: #e6edf3 } .muted { fill: #9198a1 }
.grid { stroke: #2a313a } .axis { stroke: #6e7681 }
.train-line { stroke: #6cb0ff } .train-fill { fill: #6cb0ff } .test-line { stroke: #f0883e } .test-fill { fill: #f0883e }
}";

/// One of the two plots.
struct Panel<'a> {
    title: &'a str,
    left: f64,
    /// Training and test values, as `(epoch, value)`.
    series: [Vec<(f64, f64)>; 2],
    x: Axis,
    y: Axis,
    tick_suffix: &'a str,
    format: fn(f64) -> String,
}

/// Draws the curves of a run. Values that are not finite leave gaps.
pub fn curves_svg(epochs: &[EpochRecord], title: &str) -> String {
    let by_epoch = |value: fn(&EpochRecord) -> f64| -> Vec<(f64, f64)> {
        epochs.iter().map(|record| (f64::from(record.epoch), value(record))).collect()
    };
    let losses = [by_epoch(|record| record.train_loss), by_epoch(|record| record.test_loss)];
    let accuracies =
        [by_epoch(|record| 100.0 * record.train_accuracy), by_epoch(|record| 100.0 * record.test_accuracy)];
    let x = Axis::epochs(epochs.iter().map(|record| f64::from(record.epoch)).fold(1.0, f64::max), TICKS);
    let (_, max_loss) = range(&losses).unwrap_or((0.0, 1.0));
    let (min, max) = range(&accuracies).unwrap_or((0.0, 100.0));
    let [loss_left, accuracy_left] = PLOT_LEFTS;
    let panels = [
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
    ];
    let mut svg = opening(title, &subtitle(epochs));
    for panel in &panels {
        panel.draw(&mut svg);
    }
    svg + "</svg>\n"
}

fn opening(title: &str, subtitle: &str) -> String {
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

fn subtitle(epochs: &[EpochRecord]) -> String {
    let best =
        epochs.iter().reduce(|best, record| if record.test_accuracy > best.test_accuracy { record } else { best });
    match best {
        Some(best) => format!("best test accuracy {} (epoch {})", percent(best.test_accuracy), best.epoch),
        None => "no epoch yet".to_string(),
    }
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String) {
        self.draw_axes(svg);
        self.draw_header(svg);
        for (points, name) in self.series.iter().zip(["train", "test"]) {
            self.draw_line(svg, points, name);
        }
        self.draw_last_values(svg);
    }

    fn x_at(&self, epoch: f64) -> f64 {
        self.left + PLOT_WIDTH * self.x.fraction(epoch)
    }

    fn y_at(&self, value: f64) -> f64 {
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
        for (name, offset) in [("train", 120.0), ("test", 55.0)] {
            let start = left + PLOT_WIDTH - offset;
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
        let last = |index: usize| self.series[index].last().filter(|point| point.1.is_finite());
        let mut labels: Vec<(f64, f64, &str, f64)> = [(0, "train"), (1, "test")]
            .into_iter()
            .filter_map(|(index, name)| last(index).map(|&(epoch, value)| (self.y_at(value), value, name, epoch)))
            .collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let [upper, lower] = labels.as_mut_slice() {
            let overlap = LABEL_GAP - (lower.0 - upper.0);
            if overlap > 0.0 {
                upper.0 -= overlap / 2.0;
                lower.0 += overlap / 2.0;
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
fn range(series: &[Vec<(f64, f64)>; 2]) -> Option<(f64, f64)> {
    let finite = series.iter().flatten().map(|point| point.1).filter(|value| value.is_finite());
    finite.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

fn push(text: &mut String, line: std::fmt::Arguments) {
    let _ = writeln!(text, "{line}"); // writing to a String cannot fail
}

/// Escapes text for XML, and replaces or removes characters that XML does not allow.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{FFFE}' | '\u{FFFF}' => {}
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

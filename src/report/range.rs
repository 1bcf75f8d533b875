//! `lr-find.svg`: the losses of a learning-rate range test over the rates, on a logarithmic axis.

use super::axis::{Axis, LogAxis};
use super::console;
use super::curves::{PLOT_BOTTOM, PLOT_LEFTS, PLOT_TOP, TICKS, WIDTH, opening, push};
use crate::train::{RangeStep, RangeTest, Suggestion};

/// The loss of each step is drawn behind the smoothed one.
const STYLE: &str = "\
.raw { fill: none; stroke: #8c959f; stroke-width: 1; stroke-linejoin: round; opacity: 0.7 }
.mark { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) { .raw { stroke: #6e7681 } .mark { stroke: #f0883e } }";

/// The loss axis ends at this multiple of the largest smoothed loss before the minimum: divergence needs no room.
const HEADROOM: f64 = 1.15;

/// A learning rate with two significant digits, such as `0.012` or `1.2e-5`.
pub fn rate(value: f32) -> String {
    let rounded: f64 = format!("{value:.1e}").parse().unwrap_or(f64::from(value));
    if (1e-4..1e4).contains(&rounded) { rounded.to_string() } else { format!("{rounded:e}") }
}

/// Draws a range test with its suggestion, if there is one; else `subtitle` says why not.
pub fn range_svg(test: &RangeTest, title: &str, subtitle: &str, suggestion: Option<Suggestion>) -> String {
    let chart = Chart::new(test);
    let mut svg = opening(title, subtitle);
    push(&mut svg, format_args!("<style>\n{STYLE}\n</style>"));
    chart.draw_axes(&mut svg);
    draw_header(&mut svg);
    let height = PLOT_BOTTOM - PLOT_TOP;
    push(
        &mut svg,
        format_args!(
            "<clipPath id=\"plot\"><rect x=\"{LEFT}\" y=\"{PLOT_TOP}\" width=\"{PLOT_WIDTH}\" \
             height=\"{height}\"/></clipPath>"
        ),
    );
    svg.push_str("<g clip-path=\"url(#plot)\">\n");
    chart.draw_line(&mut svg, "raw", |step| step.loss);
    chart.draw_line(&mut svg, "line train-line", |step| step.smoothed);
    svg.push_str("</g>\n");
    if let Some(suggestion) = suggestion {
        chart.draw_suggestion(&mut svg, suggestion);
    }
    svg + "</svg>\n"
}

const LEFT: f64 = PLOT_LEFTS[0];
const PLOT_WIDTH: f64 = WIDTH - LEFT - 40.0;

struct Chart<'a> {
    steps: &'a [RangeStep],
    x: LogAxis,
    y: Axis,
}

impl<'a> Chart<'a> {
    fn new(test: &'a RangeTest) -> Self {
        let finite = |value: fn(&RangeStep) -> f64| test.steps.iter().map(value).filter(|value| value.is_finite());
        let (losses, smoothed) = (finite(|step| step.loss), finite(|step| step.smoothed));
        let lowest = smoothed.clone().fold(f64::INFINITY, f64::min);
        let high = smoothed.take_while(|&value| value > lowest).fold(lowest, f64::max);
        let low = losses.fold(lowest, f64::min);
        let (low, high) = if low.is_finite() { (low, HEADROOM * high) } else { (0.0, 1.0) };
        let margin = 0.05 * (high - low);
        let x = LogAxis::new(f64::from(test.range.min), f64::from(test.range.max));
        Self { steps: &test.steps, x, y: Axis::around(low - margin, high, TICKS, (0.0, f64::MAX)) }
    }

    fn x_at(&self, rate: f32) -> f64 {
        LEFT + PLOT_WIDTH * self.x.fraction(f64::from(rate))
    }

    fn y_at(&self, loss: f64) -> f64 {
        PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * self.y.fraction(loss)
    }

    fn draw_axes(&self, svg: &mut String) {
        let (right, bottom) = (LEFT + PLOT_WIDTH, PLOT_BOTTOM);
        for tick in self.y.ticks() {
            let (y, x, text) = (self.y_at(tick), LEFT - 8.0, self.y.tick_text(tick));
            push(svg, format_args!("<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>"));
            let baseline = y + 4.0;
            push(
                svg,
                format_args!("<text class=\"muted\" x=\"{x}\" y=\"{baseline:.1}\" text-anchor=\"end\">{text}</text>"),
            );
        }
        push(svg, format_args!("<line class=\"axis\" x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>"));
        for tick in self.x.ticks() {
            let x = LEFT + PLOT_WIDTH * self.x.fraction(tick);
            let (end, baseline, text) = (bottom + 5.0, bottom + 19.0, rate(tick as f32));
            push(svg, format_args!("<line class=\"axis\" x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{end}\"/>"));
            push(
                svg,
                format_args!(
                    "<text class=\"muted\" x=\"{x:.1}\" y=\"{baseline}\" text-anchor=\"middle\">{text}</text>"
                ),
            );
        }
        let (x, baseline) = (LEFT + PLOT_WIDTH / 2.0, bottom + 37.0);
        push(
            svg,
            format_args!(
                "<text class=\"muted\" x=\"{x}\" y=\"{baseline}\" text-anchor=\"middle\">learning rate</text>"
            ),
        );
    }

    /// Values that are not finite end the line. Values far outside the plot are drawn at its edge, as SVG has no room
    /// for the largest numbers.
    fn draw_line(&self, svg: &mut String, class: &str, value: fn(&RangeStep) -> f64) {
        let far = 4.0 * (PLOT_BOTTOM - PLOT_TOP);
        let points = self.steps.iter().map(|step| (self.x_at(step.rate), value(step)));
        let points = points.take_while(|(_, value)| value.is_finite());
        let line: Vec<String> =
            points.map(|(x, value)| format!("{x:.1} {:.1}", self.y_at(value).clamp(-far, PLOT_BOTTOM + far))).collect();
        if !line.is_empty() {
            push(svg, format_args!("<path class=\"{class}\" d=\"M{}\"/>", line.join("L")));
        }
    }

    /// Marks the suggested rate, and the points that it follows from.
    fn draw_suggestion(&self, svg: &mut String, suggestion: Suggestion) {
        let x = self.x_at(suggestion.rate());
        push(
            svg,
            format_args!("<line class=\"mark\" x1=\"{x:.1}\" y1=\"{PLOT_TOP}\" x2=\"{x:.1}\" y2=\"{PLOT_BOTTOM}\"/>"),
        );
        let at = |rate: f32| self.steps.iter().find(|step| step.rate == rate);
        for step in [suggestion.steepest, suggestion.lowest].into_iter().filter_map(at) {
            let (x, y) = (self.x_at(step.rate), self.y_at(step.smoothed));
            push(svg, format_args!("<circle class=\"train-fill\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"));
        }
        // On the side with more room.
        let is_right = x > LEFT + PLOT_WIDTH / 2.0;
        let (at, anchor) = if is_right { (x - 8.0, "end") } else { (x + 8.0, "start") };
        let (baseline, text) = (PLOT_BOTTOM - 12.0, rate(suggestion.rate()));
        push(
            svg,
            format_args!(
                "<text class=\"label test-fill\" x=\"{at:.1}\" y=\"{baseline}\" text-anchor=\"{anchor}\">suggested: \
                 {text}</text>"
            ),
        );
    }
}

/// Draws the title of the plot on the left, and its legend on the right.
fn draw_header(svg: &mut String) {
    let (baseline, middle) = (PLOT_TOP - 16.0, PLOT_TOP - 20.0);
    push(svg, format_args!("<text class=\"ink panel\" x=\"{LEFT}\" y=\"{baseline}\">Training loss</text>"));
    for (class, name, room) in [("raw", "each step", 195.0), ("line train-line", "smoothed", 85.0)] {
        let start = LEFT + PLOT_WIDTH - room;
        let (end, text) = (start + 20.0, start + 26.0);
        push(
            svg,
            format_args!("<line class=\"{class}\" x1=\"{start}\" y1=\"{middle}\" x2=\"{end}\" y2=\"{middle}\"/>"),
        );
        push(svg, format_args!("<text class=\"ink\" x=\"{text}\" y=\"{baseline}\">{name}</text>"));
    }
}

/// The words for a suggestion, or for why there is none.
pub fn range_words(test: &RangeTest, suggestion: &anyhow::Result<Suggestion>) -> String {
    match suggestion {
        Ok(suggestion @ Suggestion { steepest, lowest }) => {
            let lowest_loss = test.steps.iter().find(|step| step.rate == *lowest).map_or(f64::NAN, |it| it.smoothed);
            format!(
                "suggested learning rate: {} (the smoothed loss falls fastest at {}, and is lowest, {}, at {}, a tenth of \
                 which is {})",
                rate(suggestion.rate()),
                rate(*steepest),
                console::loss(lowest_loss),
                rate(*lowest),
                rate(*lowest / 10.0)
            )
        }
        Err(error) => format!("no learning rate can be suggested: {error:#}"),
    }
}

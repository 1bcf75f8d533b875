//! The parts of the dashboard: a chart of curves, and a bar with words.

use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis as ChartAxis, Block, BorderType, Chart, Dataset, GraphType, Widget};

use super::super::axis::Axis;

pub(super) const MUTED: Style = Style::new().fg(Color::Indexed(244));
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

#[derive(Clone, Copy)]
pub(super) struct Series {
    pub name: &'static str,
    pub colour: Color,
    /// Distinguishes the curves without colours.
    pub symbol: char,
}

pub(super) struct Curve {
    pub series: Series,
    /// Epochs and values.
    pub points: Vec<(f64, f64)>,
}

/// A chart with its curves.
pub(super) struct Panel {
    /// Losses, else accuracies in percent.
    pub is_loss: bool,
    pub curves: Vec<Curve>,
}

/// The vertical axis.
enum Scale {
    Linear(Axis),
    /// From one power of ten to another.
    Decades(i32, i32),
}

impl Scale {
    /// Where a value is between the bounds.
    fn place(&self, value: f64) -> f64 {
        match self {
            Self::Linear(_) => value,
            Self::Decades(..) => value.log10(),
        }
    }

    fn bounds(&self) -> [f64; 2] {
        match *self {
            Self::Linear(axis) => [axis.low, axis.high],
            Self::Decades(low, high) => [low.into(), high.into()],
        }
    }

    /// The texts of ticks at equal distances.
    fn labels(&self) -> Vec<String> {
        match *self {
            Self::Linear(axis) => axis.ticks().into_iter().map(|tick| axis.tick_text(tick)).collect(),
            Self::Decades(low, high) if high - low <= 5 => (low..=high).map(power_of_ten).collect(),
            Self::Decades(low, high) => [low, high].map(power_of_ten).to_vec(),
        }
    }
}

fn power_of_ten(exponent: i32) -> String {
    if (-4..5).contains(&exponent) { format!("{}", 10f64.powi(exponent)) } else { format!("1e{exponent}") }
}

impl Panel {
    /// Draws the curves from epoch `first`, or the start of the run if it is 0, to the end of epoch `last`.
    pub fn draw(&self, [first, last]: [f64; 2], coloured: bool, area: Rect, buffer: &mut Buffer) {
        let inner_height = area.height.saturating_sub(4);
        let scale = self.scale((inner_height / 3).clamp(1, 5).into());
        let suffix = if self.is_loss { "" } else { "%" };
        let labels = scale.labels().into_iter().map(|text| Span::styled(text + suffix, MUTED));
        let y = ChartAxis::default().bounds(scale.bounds()).labels(labels).labels_alignment(Alignment::Right);
        let ends = [format!("{first}"), format!("epoch {last}")].map(|text| Span::styled(text, MUTED));
        let x = ChartAxis::default().bounds([first, last]).labels(ends);
        let block = Block::bordered().border_type(BorderType::Rounded).border_style(MUTED).title(self.legend(coloured));
        let placed =
            |curve: &Curve| curve.points.iter().map(|(x, value)| (*x, scale.place(*value))).collect::<Vec<_>>();
        let points: Vec<_> = self.curves.iter().map(placed).collect();
        let datasets = self.curves.iter().zip(&points).map(|(curve, points)| curve.series.dataset(points, coloured));
        Chart::new(datasets.collect())
            .block(block)
            .x_axis(x.style(MUTED))
            .y_axis(y.style(MUTED))
            .legend_position(None)
            .render(area, buffer);
    }

    /// An axis for all values. Losses that differ by a factor of ten are shown on a logarithmic one.
    fn scale(&self, ticks: usize) -> Scale {
        let values = || self.curves.iter().flat_map(|curve| curve.points.iter().map(|(_, value)| *value));
        let (low, high) = values()
            .reduce(f64::min)
            .zip(values().reduce(f64::max))
            .unwrap_or((0.0, if self.is_loss { 1.0 } else { 100.0 }));
        if self.is_loss && low > 0.0 && high > 10.0 * low {
            return Scale::Decades(low.log10().floor() as i32, high.log10().ceil() as i32);
        }
        Scale::Linear(match self.is_loss {
            true => Axis::around(0.0, high, ticks, (0.0, f64::MAX)),
            false => Axis::around(low, high, ticks, (0.0, 100.0)),
        })
    }

    /// The title with the names of the curves.
    fn legend(&self, coloured: bool) -> Line<'static> {
        let title = if self.is_loss { " Loss " } else { " Accuracy " };
        let mut spans = vec![Span::styled(title, BOLD)];
        for Curve { series, .. } in &self.curves {
            let symbol = if coloured { '━' } else { series.symbol };
            spans.push(Span::styled(format!(" {symbol} {} ", series.name), Style::new().fg(series.colour)));
        }
        Line::from(spans)
    }
}

impl Series {
    fn dataset(self, points: &[(f64, f64)], coloured: bool) -> Dataset<'_> {
        let marker = if coloured { Marker::Braille } else { Marker::Custom(self.symbol) };
        Dataset::default().data(points).marker(marker).graph_type(GraphType::Line).style(Style::new().fg(self.colour))
    }
}

/// A line with a bar: a name, how much is done, and words about it.
pub(super) fn bar(name: &str, part: f64, done: &str, left: &str, area: Rect, buffer: &mut Buffer) {
    let widths = [18, 0, 21, 16].map(|width| if width == 0 { Constraint::Fill(1) } else { Constraint::Length(width) });
    let [name_area, bar, done_area, left_area] = Layout::horizontal(widths).areas(area);
    Line::from(format!(" {name}")).render(name_area, buffer);
    let width = usize::from(bar.width);
    let filled = (part.clamp(0.0, 1.0) * width as f64).round() as usize;
    Line::from(vec![Span::raw("━".repeat(filled)), Span::styled("─".repeat(width - filled), MUTED)])
        .render(bar, buffer);
    Line::from(format!("{done} ")).right_aligned().render(done_area, buffer);
    Line::from(format!("{left} ")).right_aligned().render(left_area, buffer);
}

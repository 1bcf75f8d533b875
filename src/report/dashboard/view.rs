//! Draws the dashboard: what it shows at which place.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Widget};
use unicode_width::UnicodeWidthChar;

use super::super::console::{grouped, loss, percent};
use super::super::records::{EpochRecord, best_epoch};
use super::panel::{Curve, MUTED, Panel, Series, bar};
use super::state::{RunState, RunningMean, clock};
use crate::files::printable;
use crate::train::Monitor;

/// Colours that are legible on black and on white, those of `curves.svg`.
const TRAIN: Series = Series { name: "train", colour: Color::Indexed(33), symbol: '•' };
const VAL: Series = Series { name: "val", colour: Color::Indexed(35), symbol: '+' };
const TEST: Series = Series { name: "test", colour: Color::Indexed(208), symbol: '×' };
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// A terminal with so many rows shows more messages.
const TALL: u16 = 36;

/// Larger values are not drawn, because the arithmetic of a chart would overflow.
const LARGEST: f64 = 1e30;

/// The state of a run, as a widget for the whole terminal.
pub struct View<'a> {
    pub state: &'a RunState,
    /// The newest last; they may contain colours.
    pub messages: &'a [String],
    pub coloured: bool,
}

impl Widget for View<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let messages = if area.height >= TALL { 8 } else { 4 };
        let [lines, charts, numbers, best, messages] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Fill(1),
            Constraint::Length(4),
            Constraint::Length(1),
            Constraint::Length(messages),
        ])
        .areas(area);
        let [head, epoch, run] = Layout::vertical([Constraint::Length(1); 3]).areas(lines);
        self.head(head, buffer);
        self.epoch(epoch, buffer);
        self.run(run, buffer);
        let [losses, accuracies] = Layout::horizontal([Constraint::Fill(1); 2]).areas(charts);
        // The first point is in epoch 1, or within it before its end.
        let last = self.state.position().ceil().max(1.0);
        let epochs = [if last > 1.0 { 1.0 } else { 0.0 }, last];
        self.losses().draw(epochs, self.coloured, losses, buffer);
        self.accuracies().draw(epochs, self.coloured, accuracies, buffer);
        let [table, speed] = Layout::horizontal([Constraint::Length(52), Constraint::Fill(1)]).areas(numbers);
        Paragraph::new(self.table()).render(table, buffer);
        Paragraph::new(self.speed()).render(speed, buffer);
        self.best().render(best, buffer);
        self.messages(messages, buffer);
        if !self.coloured {
            buffer.content.iter_mut().for_each(|cell| cell.fg = Color::Reset);
        }
    }
}

impl View<'_> {
    fn head(&self, area: Rect, buffer: &mut Buffer) {
        let facts = &self.state.facts;
        let [title, device] = [&facts.title, &facts.device].map(|text| printable(text));
        let device = Line::from(vec![Span::styled(device, MUTED), " ".into()]).right_aligned();
        let [left, right] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Length(device.width() as u16)]).areas(area);
        Line::from(vec![" ".into(), Span::styled(title, BOLD)]).render(left, buffer);
        device.render(right, buffer);
    }

    fn epoch(&self, area: Rect, buffer: &mut Buffer) {
        let state = self.state;
        let facts = &state.facts;
        // After the last epoch there is no further one.
        let epoch = (state.epoch + 1).min(facts.epochs.max(1));
        let part = state.step_in_epoch as f64 / facts.steps_per_epoch.max(1) as f64;
        let left = match (state.is_evaluating, state.seconds_left()) {
            (true, _) => "evaluating".into(),
            (false, Some([epoch, _])) => format!("{} left", clock(epoch)),
            (false, None) => String::new(),
        };
        let done = format!("step {}/{}", grouped(state.step_in_epoch as f64), grouped(facts.steps_per_epoch as f64));
        bar(&format!("epoch {epoch}/{}", facts.epochs), part, &done, &left, area, buffer);
    }

    fn run(&self, area: Rect, buffer: &mut Buffer) {
        let state = self.state;
        let left = state.seconds_left().map_or(String::new(), |[_, run]| format!("{} left", clock(run)));
        let elapsed = format!("{} elapsed", clock(state.elapsed.as_secs_f64()));
        let part = state.part_done();
        bar(&format!("run {:.0}%", (100.0 * part).floor()), part, &elapsed, &left, area, buffer);
    }

    /// A curve: its value in every epoch's record, and that of the running mean in the current epoch.
    fn curve<T: Fn(&EpochRecord) -> Option<f64>>(
        &self,
        series: Series,
        value: T,
        mean: Option<fn(&RunningMean) -> f64>,
    ) -> Curve {
        let of_record = |record: &EpochRecord| Some((f64::from(record.epoch), value(record)?));
        let of_mean = mean.into_iter().flat_map(|mean| self.state.trace.iter().map(move |it| (it.at, mean(it))));
        let points = self.state.records.iter().filter_map(of_record).chain(of_mean);
        Curve { series, points: points.filter(|(_, value)| value.abs() < LARGEST).collect() }
    }

    fn losses(&self) -> Panel {
        let mut curves = vec![self.curve(TRAIN, |it| Some(it.train_loss), Some(|it| it.loss))];
        curves.extend(self.has_val().then(|| self.curve(VAL, |it| it.val_loss, None)));
        curves.push(self.curve(TEST, |it| Some(it.test_loss), None));
        Panel { is_loss: true, curves }
    }

    fn accuracies(&self) -> Panel {
        let mut curves = vec![self.curve(TRAIN, |it| Some(100.0 * it.train_accuracy), Some(|it| 100.0 * it.accuracy))];
        curves.extend(self.has_val().then(|| self.curve(VAL, |it| it.val_accuracy.map(|part| 100.0 * part), None)));
        curves.push(self.curve(TEST, |it| Some(100.0 * it.test_accuracy), None));
        Panel { is_loss: false, curves }
    }

    fn has_val(&self) -> bool {
        self.state.records.iter().any(|record| record.val_loss.is_some())
    }

    /// The running mean of this epoch, and the last epoch's evaluation.
    fn table(&self) -> Vec<Line<'static>> {
        let (last, mean) = (self.state.records.last(), self.state.trace.last());
        let cell = |text: Option<String>| Span::raw(format!("{:>10}", text.unwrap_or_else(|| "–".into())));
        let head = |series: Series| Span::styled(format!("{:>10}", series.name), Style::new().fg(series.colour));
        let val = |line: Span<'static>| self.has_val().then_some(line);
        let losses = [last.map(|it| it.train_loss), last.and_then(|it| it.val_loss), last.map(|it| it.test_loss)];
        let accuracies =
            [last.map(|it| it.train_accuracy), last.and_then(|it| it.val_accuracy), last.map(|it| it.test_accuracy)];
        let line =
            |name: &'static str, now: Option<String>, [train, val_cell, test]: [Option<String>; 3]| -> Line<'static> {
                let name = Span::styled(format!(" {name:<9}"), MUTED);
                let cells = [Some(name), Some(cell(now)), Some(cell(train)), val(cell(val_cell)), Some(cell(test))];
                cells.into_iter().flatten().collect()
            };
        let first = Span::styled(format!("{:>20}", "this epoch"), MUTED);
        vec![
            [Some(first), Some(head(TRAIN)), val(head(VAL)), Some(head(TEST))].into_iter().flatten().collect(),
            line("loss", mean.map(|it| loss(it.loss)), losses.map(|it| it.map(loss))),
            line("accuracy", mean.map(|it| percent(it.accuracy)), accuracies.map(|it| it.map(percent))),
        ]
    }

    fn speed(&self) -> Vec<Line<'static>> {
        let state = self.state;
        let step =
            state.step_seconds().map(|seconds| format!("{:.*} ms", if seconds < 1.0 { 2 } else { 0 }, 1e3 * seconds));
        let memory = state.memory.map(|(_, bytes)| format!("{:.2} GB", bytes as f64 / 1e9));
        let lines = [
            ("learning rate", Some(short(state.learning_rate()))),
            ("step", step),
            ("images/s", state.images_per_second().map(grouped)),
            (state.memory.map_or("memory", |(name, _)| name), memory),
        ];
        let line = |(name, value): (&'static str, Option<String>)| {
            Line::from(vec![Span::styled(format!("{name:<15}"), MUTED), value.unwrap_or_else(|| "–".into()).into()])
        };
        lines.into_iter().map(line).collect()
    }

    /// The best epoch so far: by what the run monitors, otherwise by the test accuracy, which decides nothing.
    fn best(&self) -> Line<'static> {
        let monitor = self.state.facts.monitor;
        let by = monitor.unwrap_or(Monitor::TestAccuracy);
        let text = best_epoch(&self.state.records, by).map_or("–".into(), |best| {
            let value = best.monitored(by).unwrap_or(f64::NAN);
            let value = if by.is_loss() { loss(value) } else { percent(value) };
            let more = match monitor {
                None => "; the last epoch's weights are saved".into(),
                Some(Monitor::TestAccuracy) => String::new(),
                Some(_) => format!(", test accuracy {}", percent(best.test_accuracy)),
            };
            format!("epoch {} by {} {value}{more}", best.epoch, by.words())
        });
        Line::from(vec![Span::styled(" best     ", MUTED), Span::styled(text, BOLD)])
    }

    fn messages(&self, area: Rect, buffer: &mut Buffer) {
        let title = Line::from(Span::styled(" messages ", MUTED));
        let block = Block::new().borders(Borders::TOP).border_style(MUTED).title(title);
        let inner = block.inner(area);
        block.render(area, buffer);
        let width = usize::from(inner.width).max(2);
        let lines: Vec<String> = self.messages.iter().flat_map(|text| wrapped(text, width)).collect();
        let shown = &lines[lines.len().saturating_sub(inner.height.into())..];
        Paragraph::new(shown.iter().map(|line| Line::from(line.as_str())).collect::<Vec<_>>()).render(inner, buffer);
    }
}

/// A message as lines of at most `width` columns.
fn wrapped(message: &str, width: usize) -> Vec<String> {
    let plain = console::strip_ansi_codes(message);
    let (mut lines, mut line, mut columns) = (Vec::new(), String::new(), 0);
    for c in printable(&plain).chars() {
        let own = c.width().unwrap_or(0);
        if columns + own > width {
            lines.push(std::mem::take(&mut line));
            columns = 0;
        }
        line.push(c);
        columns += own;
    }
    lines.push(line);
    lines
}

/// A learning rate with up to four decimals, or a small one with an exponent.
fn short(rate: f32) -> String {
    if rate != 0.0 && rate.abs() < 1e-3 {
        return format!("{rate:.2e}");
    }
    let text = format!("{rate:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

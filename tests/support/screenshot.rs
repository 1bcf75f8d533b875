//! What a terminal shows, as text and as an SVG image.

use std::fmt::Write;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use ratatui::widgets::Widget;

const CELL: (f64, f64) = (8.4, 16.4);
const MARGIN: f64 = 14.0;

/// Draws a widget on a terminal of this size.
pub fn drawn(columns: u16, rows: u16, widget: impl Widget) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
    terminal.draw(|frame| frame.render_widget(widget, frame.area())).expect("drawn");
    terminal.backend().buffer().clone()
}

/// The lines of a screen, without spaces at their ends.
pub fn text(buffer: &Buffer) -> String {
    let cells: Vec<Cell> = buffer.content.clone();
    let line = |row: &[Cell]| row.iter().map(Cell::symbol).collect::<String>().trim_end().to_string() + "\n";
    cells.chunks(buffer.area.width.into()).map(line).collect()
}

/// The screen as an image, whatever the fonts: dots are circles, and every run of text has its width.
pub fn svg(buffer: &Buffer) -> String {
    let (columns, rows) = (f64::from(buffer.area.width), f64::from(buffer.area.height));
    let (width, height) = (columns * CELL.0 + 2.0 * MARGIN, rows * CELL.1 + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" font-size=\"14\" \
         font-family=\"'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n"
    );
    for (y, row) in buffer.content.chunks(buffer.area.width.into()).enumerate() {
        let mut x = 0;
        while x < row.len() {
            let style = |cell: &Cell| (cell.fg, cell.modifier, dots(cell).is_some());
            let length = row[x..].iter().take_while(|cell| style(cell) == style(&row[x])).count();
            draw(&mut svg, (x, y), &row[x..x + length]);
            x += length;
        }
    }
    svg + "</svg>\n"
}

/// Draws cells of the same style.
fn draw(svg: &mut String, (x, y): (usize, usize), cells: &[Cell]) {
    let (left, top) = (MARGIN + x as f64 * CELL.0, MARGIN + y as f64 * CELL.1);
    let colour = colour(cells[0].fg);
    if dots(&cells[0]).is_some() {
        let _ = write!(svg, "<path fill=\"{colour}\" d=\"");
        for (index, dots) in cells.iter().filter_map(dots).enumerate() {
            // The order of the bits in U+2800: the left column's upper three, those of the right, then the lowest two.
            let places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)];
            for (column, row) in (0..8).filter(|bit| dots >> bit & 1 == 1).map(|bit| places[bit]) {
                let x = left + (index as f64 + 0.25 + 0.5 * f64::from(column)) * CELL.0;
                let y = top + (0.125 + 0.25 * f64::from(row)) * CELL.1;
                let _ = write!(svg, "M{:.1} {y:.1}a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0 -3 0", x - 1.5);
            }
        }
        let _ = writeln!(svg, "\"/>");
        return;
    }
    let text: String = cells.iter().map(Cell::symbol).collect();
    if text.trim().is_empty() {
        return;
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let weight = if cells[0].modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{left:.1}\" y=\"{:.1}\" fill=\"{colour}\"{weight} textLength=\"{:.1}\" \
         lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{text}</text>",
        top + 0.75 * CELL.1,
        cells.len() as f64 * CELL.0
    );
}

/// The dots of a braille character.
fn dots(cell: &Cell) -> Option<u32> {
    let character = cell.symbol().chars().next().map_or(0, u32::from);
    (0x2800..0x2900).contains(&character).then(|| character - 0x2800)
}

/// Of the numbered colours, those that the dashboard uses.
fn colour(colour: Color) -> &'static str {
    match colour {
        Color::Indexed(33) => "#0087ff",
        Color::Indexed(35) => "#00af5f",
        Color::Indexed(208) => "#ff8700",
        Color::Indexed(244) => "#808080",
        Color::Reset => "#e6edf3",
        other => panic!("{other:?} has no colour in the image"),
    }
}

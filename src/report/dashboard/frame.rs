//! A frame as what is written to a terminal.

use std::io;

use crossterm::cursor::MoveTo;
use crossterm::queue;
use crossterm::style::{Attribute, Color as TerminalColour, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{BeginSynchronizedUpdate, EndSynchronizedUpdate};
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// The whole frame, not its changes: whatever else was written to the terminal, such as a key's echo, disappears.
pub(super) fn bytes(buffer: &Buffer) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let _ = write(&mut out, buffer);
    out
}

fn write(out: &mut Vec<u8>, buffer: &Buffer) -> io::Result<()> {
    queue!(out, BeginSynchronizedUpdate)?;
    let (mut next, mut style) = (None, None);
    // No cell of a frame has a background, so all differ. The second cell of a wide character is left out.
    let mut other = Cell::EMPTY;
    other.bg = Color::Indexed(0);
    for (x, y, cell) in Buffer::filled(buffer.area, other).diff(buffer) {
        if next != Some((x, y)) {
            queue!(out, MoveTo(x, y))?;
        }
        if style != Some((cell.fg, cell.modifier)) {
            queue!(out, SetAttribute(Attribute::Reset), SetForegroundColor(colour(cell.fg)))?;
            for (modifier, attribute) in [(Modifier::BOLD, Attribute::Bold), (Modifier::DIM, Attribute::Dim)] {
                if cell.modifier.contains(modifier) {
                    queue!(out, SetAttribute(attribute))?;
                }
            }
            style = Some((cell.fg, cell.modifier));
        }
        queue!(out, Print(cell.symbol()))?;
        // A wide character moves the cursor further; then the next cell gets a position.
        next = Some((x + 1, y));
    }
    // Keys that are pressed are echoed at the cursor.
    queue!(out, SetAttribute(Attribute::Reset), MoveTo(0, 0), EndSynchronizedUpdate)
}

/// The dashboard uses no other colours than numbered ones.
fn colour(colour: Color) -> TerminalColour {
    match colour {
        Color::Indexed(number) => TerminalColour::AnsiValue(number),
        _ => TerminalColour::Reset,
    }
}

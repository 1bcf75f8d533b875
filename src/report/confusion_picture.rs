//! `confusion.png`: the confusion matrix as a picture, with counts, or for many classes as a heat map.

use super::confusion::Confusion;
use super::picture::{Picture, Rgb, WHITE};
use super::text::{CHARACTER, LINE_HEIGHT, fitted, mixed, text_width};

/// With more classes, the matrix is a heat map.
pub const MAX_COUNTED: usize = 30;
/// Names are cut to this many pixels.
const NAME: usize = 20 * CHARACTER;
/// The largest side of a heat map, and the most classes that have cells of their own, of at least two pixels.
const SIDE: usize = 860;
const MAX_CELLS: usize = 430;
const MARGIN: usize = 16;
const INK: Rgb = [0x1f, 0x23, 0x28];
const MUTED: Rgb = [0x59, 0x63, 0x6e];
const LINE: Rgb = [0xd9, 0xde, 0xe4];
/// Right and wrong classifications.
const RIGHT: Rgb = [0x21, 0x66, 0xc4];
const WRONG: Rgb = [0xbc, 0x4c, 0x00];

/// How strongly a cell is coloured: the square root of its part of the true class's samples, so that a few mistakes among
/// many samples are visible.
pub fn strength(count: u64, samples: u64) -> f32 {
    if samples == 0 { 0.0 } else { (count as f32 / samples as f32).sqrt() }
}

/// Draws a confusion matrix: a row per true class, a column per predicted class.
pub fn confusion_picture(confusion: &Confusion) -> Picture {
    if confusion.classes().len() <= MAX_COUNTED { counted(confusion) } else { heat_map(confusion) }
}

fn colour(is_right: bool, strength: f32) -> Rgb {
    mixed(WHITE, if is_right { RIGHT } else { WRONG }, strength)
}

fn counted(confusion: &Confusion) -> Picture {
    let names: Vec<String> =
        confusion.classes().iter().enumerate().map(|(label, name)| fitted(name, label, NAME)).collect();
    let samples = confusion.samples();
    let largest = confusion.counts().map(|(_, count)| count).max().unwrap_or(0);
    let longest = names.iter().map(|name| text_width(name)).max().unwrap_or(0);
    let cell = text_width(&largest.to_string()).max(2 * CHARACTER) + 14;
    let is_turned = longest + 4 > cell;
    let header = if is_turned { longest } else { LINE_HEIGHT };
    let height = LINE_HEIGHT + 12;
    let left = MARGIN + text_width("true").max(longest) + 10;
    let top = MARGIN + LINE_HEIGHT + 6 + header + 8;
    let count = names.len();
    let mut picture = Picture::filled(left + count * cell + MARGIN, top + count * height + MARGIN, WHITE);
    picture.write("true", left - 10 - text_width("true"), top - 8 - LINE_HEIGHT, MUTED);
    picture.write("predicted", left, MARGIN, MUTED);
    for (label, name) in names.iter().enumerate() {
        let mut text = Picture::filled(text_width(name), LINE_HEIGHT, WHITE);
        text.write(name, 0, 0, INK);
        let (x, y) = (left + label * cell, top + label * height);
        picture.draw(&text, left - 10 - text.width, y + (height - LINE_HEIGHT) / 2);
        let text = if is_turned { text.turned_left() } else { text };
        picture.draw(&text, x + (cell - text.width) / 2, top - 8 - text.height);
    }
    for index in 0..count * count {
        let (truth, predicted) = (index / count, index % count);
        let number = confusion.count(truth, predicted);
        let strength = strength(number, samples[truth]);
        let (x, y) = (left + predicted * cell, top + truth * height);
        picture.fill(x, y, cell - 1, height - 1, colour(truth == predicted, strength));
        let (text, ink) = match number {
            0 => ("0".to_string(), LINE),
            _ => (number.to_string(), if strength > 0.6 { WHITE } else { INK }),
        };
        picture.write(&text, x + (cell - text_width(&text)) / 2, y + (height - LINE_HEIGHT) / 2, ink);
    }
    picture
}

/// A cell per class; with more than [`MAX_CELLS`], a cell has several neighbouring classes, whose counts are added up.
fn heat_map(confusion: &Confusion) -> Picture {
    let classes = confusion.classes().len();
    let bin = classes.div_ceil(MAX_CELLS);
    let cells = classes.div_ceil(bin);
    let side = SIDE / cells;
    let (mut counts, mut samples) = (vec![0_u64; cells * cells], vec![0_u64; cells]);
    for ((truth, predicted), count) in confusion.counts() {
        counts[truth / bin * cells + predicted / bin] += count;
        samples[truth / bin] += count;
    }
    let left = MARGIN + text_width(&classes.to_string()).max(text_width("true")) + 10;
    let top = MARGIN + 2 * LINE_HEIGHT + 14;
    let size = cells * side;
    let mut picture = Picture::filled(left + size + MARGIN, top + size + MARGIN, WHITE);
    picture.fill(left - 1, top - 1, size + 2, size + 2, LINE);
    picture.fill(left, top, size, size, WHITE);
    for (index, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        let (truth, predicted) = (index / cells, index % cells);
        let colour = colour(truth == predicted, strength(count, samples[truth]).max(0.15));
        picture.fill(left + predicted * side, top + truth * side, side, side, colour);
    }
    picture.write("predicted class", left, MARGIN, MUTED);
    picture.write("true", left - 10 - text_width("true"), MARGIN + LINE_HEIGHT + 6, MUTED);
    let step = tick_step(classes);
    for label in (0..classes).step_by(step) {
        let (at, text) = (label / bin * side + side / 2, label.to_string());
        let x = (left + at).saturating_sub(text_width(&text) / 2).max(left);
        picture.write(&text, x, MARGIN + LINE_HEIGHT + 6, INK);
        picture.fill(left + at, top - 4, 1, 3, MUTED);
        picture.write(&text, left - 10 - text_width(&text), (top + at).saturating_sub(LINE_HEIGHT / 2), INK);
        picture.fill(left - 4, top + at, 3, 1, MUTED);
    }
    picture
}

/// The classes between two labelled ones: a round number, at most ten labels.
fn tick_step(classes: usize) -> usize {
    let powers = (0..9).map(|power| 10_usize.pow(power));
    let steps = powers.flat_map(|power| [power, 2 * power, 5 * power]);
    steps.into_iter().find(|step| step * 10 >= classes).unwrap_or(classes)
}

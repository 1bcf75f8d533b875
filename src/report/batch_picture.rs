//! `train_batch.png`: the images of a run's first batch, with their labels.

use super::picture::{Picture, Rgb, WHITE, contact_sheet};
use super::text::{LINE_HEIGHT, fitted, text_width};
use crate::ops::Mix;
use crate::shape::Shape;

/// Images are enlarged to at least this many pixels.
const SIDE: usize = 80;
const GAP: usize = 8;
/// The picture's largest width and the largest number of columns. There are at most as many rows as columns.
const WIDTH: usize = 940;
const COLUMNS: usize = 8;
const INK: Rgb = [0x1f, 0x23, 0x28];

/// The number of a batch's images that the picture shows, and its columns.
fn layout(count: usize, shape: Shape) -> (usize, usize) {
    let columns = ((WIDTH - GAP) / (tile_width(shape) + GAP)).clamp(1, COLUMNS);
    (count.min(columns * columns), columns)
}

fn factor(shape: Shape) -> usize {
    SIDE.div_ceil(shape.height.max(shape.width)).max(1)
}

fn tile_width(shape: Shape) -> usize {
    factor(shape) * shape.width
}

/// Draws the first of the images `pixels`, `[count][height][width][channels]`, each with its label. A mixed image has two
/// labels.
pub fn batch_picture(pixels: &[u8], shape: Shape, labels: &[u32], classes: &[String], mix: Option<Mix>) -> Picture {
    let (shown, columns) = layout(labels.len(), shape);
    let width = tile_width(shape);
    let tiles = pixels.chunks_exact(shape.len()).take(shown).enumerate().map(|(index, image)| {
        let image = Picture::from_pixels(image, shape).enlarged(factor(shape));
        let mut tile = Picture::filled(image.width, image.height + LINE_HEIGHT + 2, WHITE);
        tile.draw(&image, 0, 0);
        let partner = mix.filter(|mix| mix.other > 0.0).map(|_| labels[Mix::partner(index, labels.len())]);
        let label = label(labels[index], partner, classes, width);
        tile.write(&label, width.saturating_sub(text_width(&label)) / 2, image.height + 2, INK);
        tile
    });
    contact_sheet(&tiles.collect::<Vec<_>>(), columns, GAP, WHITE)
}

/// What the picture shows, in words.
pub fn batch_words(shape: Shape, is_mixed: bool) -> String {
    let (most, _) = layout(usize::MAX, shape);
    let mixed = if is_mixed { "; each is mixed with another, whose label follows its own" } else { "" };
    format!("Images of the first step as the network received them, at most {most}{mixed}")
}

fn label(own: u32, other: Option<u32>, classes: &[String], width: usize) -> String {
    let name = |label: u32, width: usize| {
        let label = label as usize;
        fitted(classes.get(label).map_or("", String::as_str), label, width)
    };
    match other.filter(|&other| other != own) {
        None => name(own, width),
        Some(other) => {
            let half = width.saturating_sub(text_width("+")) / 2;
            format!("{}+{}", name(own, half), name(other, half))
        }
    }
}

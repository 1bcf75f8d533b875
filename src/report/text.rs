//! Text in pictures: Noto Sans Mono, 16 pixels high.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::picture::{Picture, Rgb};

/// The height of a line, in pixels.
pub const LINE_HEIGHT: usize = RasterHeight::Size16.val();

/// The width of a character, in pixels.
pub const CHARACTER: usize = get_raster_width(FontWeight::Regular, RasterHeight::Size16);

/// The width of a text, in pixels.
pub fn text_width(text: &str) -> usize {
    CHARACTER * text.chars().count()
}

/// A name that takes at most `width` pixels: its beginning, if it is too long. A name with characters that the font lacks
/// (it has those of most European languages) is replaced by `number`.
pub fn fitted(name: &str, number: usize, width: usize) -> String {
    let has_all = name.chars().all(|c| get_raster(c, FontWeight::Regular, RasterHeight::Size16).is_some());
    let name = if has_all && !name.trim().is_empty() { name.to_string() } else { number.to_string() };
    let fits = width / CHARACTER;
    if name.chars().count() <= fits { name } else { name.chars().take(fits.saturating_sub(1)).chain(['.']).collect() }
}

impl Picture {
    /// Writes a line of text with its upper left corner at `left`, `top`. What lies outside the picture is left out.
    pub fn write(&mut self, text: &str, left: usize, top: usize, colour: Rgb) {
        for (index, character) in text.chars().enumerate() {
            let raster = |c| get_raster(c, FontWeight::Regular, RasterHeight::Size16);
            let Some(raster) = raster(character).or_else(|| raster('?')) else { continue };
            for (row, values) in raster.rows().enumerate() {
                for (column, &opacity) in values.iter().enumerate() {
                    self.blend(left + index * CHARACTER + column, top + row, colour, f32::from(opacity) / 255.0);
                }
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, colour: Rgb, opacity: f32) {
        if x < self.width && y < self.height {
            let pixel = &mut self.pixels[y * self.width + x];
            *pixel = mixed(*pixel, colour, opacity);
        }
    }

    /// The picture turned left by 90°, so that text reads upwards.
    pub fn turned_left(&self) -> Self {
        let at = |index: usize| {
            let (row, column) = (index / self.height, index % self.height);
            self.pixels[column * self.width + self.width - 1 - row]
        };
        Self { width: self.height, height: self.width, pixels: (0..self.pixels.len()).map(at).collect() }
    }
}

/// The colour between two others, at `part` of the way.
pub fn mixed(from: Rgb, to: Rgb, part: f32) -> Rgb {
    let channel = |channel: usize| {
        let [from, to] = [from, to].map(|colour| f32::from(colour[channel]));
        (from + part * (to - from)).round() as u8
    };
    [0, 1, 2].map(channel)
}

//! RGB pictures in memory: images and values as pixels, enlargement, contact sheets, and PNG files.

use anyhow::{Context, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use crate::shape::Shape;

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

pub const WHITE: Rgb = [255; 3];

/// A picture in sRGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    /// `[height][width]`
    pub pixels: Vec<Rgb>,
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: Rgb) -> Self {
        Self { width, height, pixels: vec![colour; width * height] }
    }

    /// An image of a data set, `[height][width][channels]`. One channel is gray, three are red, green and blue. Of any other
    /// number, which has no usual meaning as colours, the picture is the gray mean.
    ///
    /// # Panics
    /// If `values` does not have the length of `shape`.
    pub fn from_pixels(values: &[u8], shape: Shape) -> Self {
        let Shape { height, width, channels } = shape;
        assert_eq!(values.len(), shape.len(), "bytes of an image of {shape}");
        let pixels = match channels {
            0 => vec![[0; 3]; width * height],
            3 => values.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
            _ => values.chunks_exact(channels).map(|pixel| [mean(pixel); 3]).collect(),
        };
        Self { width, height, pixels }
    }

    /// A picture of `values`, `[height][width]`, each in its colour.
    ///
    /// # Panics
    /// If the values do not fill rows of `width`.
    pub fn from_values(values: &[f32], width: usize, colour: impl FnMut(f32) -> Rgb) -> Self {
        assert_eq!(values.len() % width, 0, "{} values in rows of {width}", values.len());
        Self { width, height: values.len() / width, pixels: values.iter().copied().map(colour).collect() }
    }

    /// A picture of values `[height][width][channels]` of either sign, on a scale symmetric about 0 that `largest`, the
    /// largest magnitude, fills. With three channels, 0 is middle gray, and a channel's `largest` is 255, or 0 if negative.
    /// With any other number of channels, the picture shows their mean: 0 is white, positive red and negative blue.
    ///
    /// # Panics
    /// If `values` does not have the length of `shape`.
    pub fn from_signed(values: &[f32], shape: Shape, largest: f32) -> Self {
        let Shape { height, width, channels } = shape;
        assert_eq!(values.len(), shape.len(), "values of {shape}");
        let scale = if largest > 0.0 { largest } else { 1.0 };
        let level = |value: f32| (127.5 + 127.5 * value / scale).round() as u8;
        let pixels = match channels {
            3 => values.chunks_exact(3).map(|pixel| [0, 1, 2].map(|channel| level(pixel[channel]))).collect(),
            _ => {
                let mean = |pixel: &[f32]| pixel.iter().sum::<f32>() / channels as f32;
                values.chunks_exact(channels).map(|pixel| diverging(mean(pixel) / scale)).collect()
            }
        };
        Self { width, height, pixels }
    }

    /// The part with its upper left corner at `left`, `top`, which may lie outside the picture. What is outside has the
    /// colour `background`.
    pub fn part(&self, left: isize, top: isize, width: usize, height: usize, background: Rgb) -> Self {
        let inside = |at: isize, side: usize| usize::try_from(at).ok().filter(|&at| at < side);
        let pixel = |index: usize| {
            let row = inside(top + (index / width) as isize, self.height)?;
            Some(self.pixels[row * self.width + inside(left + (index % width) as isize, self.width)?])
        };
        let pixels = (0..width * height).map(|index| pixel(index).unwrap_or(background)).collect();
        Self { width, height, pixels }
    }

    /// Every pixel as a square of `factor` × `factor` pixels.
    pub fn enlarged(&self, factor: usize) -> Self {
        let row = |row: &[Rgb]| row.iter().flat_map(|&pixel| std::iter::repeat_n(pixel, factor)).collect::<Vec<_>>();
        let pixels = self.pixels.chunks(self.width.max(1)).flat_map(|pixels| row(pixels).repeat(factor)).collect();
        Self { width: factor * self.width, height: factor * self.height, pixels }
    }

    /// Copies `other` into this picture, with its upper left pixel at `left`, `top`. What lies outside is left out.
    pub fn draw(&mut self, other: &Self, left: usize, top: usize) {
        let width = other.width.min(self.width.saturating_sub(left));
        for row in 0..other.height.min(self.height.saturating_sub(top)) {
            let (to, from) = ((top + row) * self.width + left, row * other.width);
            self.pixels[to..to + width].copy_from_slice(&other.pixels[from..from + width]);
        }
    }

    /// Fills a rectangle. What lies outside is left out.
    pub fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, colour: Rgb) {
        let columns = left.min(self.width)..(left + width).min(self.width);
        for row in top..(top + height).min(self.height) {
            self.pixels[row * self.width..][columns.clone()].fill(colour);
        }
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// The picture has no pixels, or more in a row or column than the format allows.
    pub fn png(&self) -> Result<Vec<u8>> {
        let context = || format!("cannot make a PNG file of {}×{} pixels", self.width, self.height);
        let [width, height] = [self.width, self.height].map(u32::try_from);
        let (width, height) = (width.with_context(context)?, height.with_context(context)?);
        let mut file = Vec::new();
        let encoder = PngEncoder::new_with_quality(&mut file, CompressionType::Default, FilterType::Adaptive);
        let written = encoder.write_image(self.pixels.as_flattened(), width, height, ExtendedColorType::Rgb8);
        written.with_context(context)?;
        Ok(file)
    }
}

fn mean(values: &[u8]) -> u8 {
    let sum: usize = values.iter().map(|&value| usize::from(value)).sum();
    ((sum + values.len() / 2) / values.len()) as u8
}

/// Tiles in rows of `columns`, with `gap` pixels of `background` between and around them. All tiles have the cells of the
/// largest.
pub fn contact_sheet(tiles: &[Picture], columns: usize, gap: usize, background: Rgb) -> Picture {
    let largest = |side: fn(&Picture) -> usize| tiles.iter().map(side).max().unwrap_or(0);
    let (width, height) = (largest(|tile| tile.width) + gap, largest(|tile| tile.height) + gap);
    let columns = columns.clamp(1, tiles.len().max(1));
    let rows = tiles.len().div_ceil(columns);
    let mut sheet = Picture::filled(columns * width + gap, rows * height + gap, background);
    for (index, tile) in tiles.iter().enumerate() {
        sheet.draw(tile, index % columns * width + gap, index / columns * height + gap);
    }
    sheet
}

/// The columns of a contact sheet of `count` tiles that is at least as wide as high: a power of two, as the numbers of a
/// network's channels mostly are, so that the rows are full.
pub fn columns_for(count: usize) -> usize {
    let side = count.isqrt() + usize::from(count.isqrt().pow(2) < count);
    side.next_power_of_two().min(count.max(1))
}

/// Blue for −1, white for 0, red for 1: ColorBrewer's RdBu (Brewer, Harrower and Woodruff), with white instead of its
/// lightest gray. Values beyond ±1 have the colours of ±1; NaN is black.
pub fn diverging(value: f32) -> Rgb {
    const COLOURS: [u32; 11] = [
        0x05_3061, 0x21_66ac, 0x43_93c3, 0x92_c5de, 0xd1_e5f0, 0xff_ffff, 0xfd_dbc7, 0xf4_a582, 0xd6_604d, 0xb2_182b,
        0x67_001f,
    ];
    interpolated(&COLOURS, 0.5 + 0.5 * value)
}

/// From dark blue for 0 to yellow for 1: viridis (Smith and van der Walt, 2015), whose steps look equally large. Every fifth
/// of matplotlib's 256 colours is here; the others deviate by at most one level. Values outside 0 to 1 have the colours of
/// the ends; NaN is black.
pub fn sequential(value: f32) -> Rgb {
    const COLOURS: [u32; 52] = [
        0x44_0154, 0x46_085c, 0x47_1063, 0x48_1769, 0x48_1d6f, 0x48_2475, 0x47_2a7a, 0x46_307e, 0x45_3781, 0x43_3d84,
        0x41_4287, 0x3f_4889, 0x3d_4e8a, 0x3a_538b, 0x38_598c, 0x35_5e8d, 0x33_638d, 0x31_688e, 0x2e_6d8e, 0x2c_718e,
        0x2a_768e, 0x29_7b8e, 0x27_808e, 0x25_848e, 0x23_898e, 0x21_8e8d, 0x20_928c, 0x1f_978b, 0x1e_9c89, 0x1f_a188,
        0x21_a585, 0x24_aa83, 0x28_ae80, 0x2e_b37c, 0x35_b779, 0x3d_bc74, 0x46_c06f, 0x50_c46a, 0x5a_c864, 0x65_cb5e,
        0x70_cf57, 0x7c_d250, 0x89_d548, 0x95_d840, 0xa2_da37, 0xb0_dd2f, 0xbd_df26, 0xca_e11f, 0xd8_e219, 0xe5_e419,
        0xf1_e51d, 0xfd_e725,
    ];
    interpolated(&COLOURS, value)
}

/// The colour at `fraction` of evenly spaced colours.
fn interpolated(colours: &[u32], fraction: f32) -> Rgb {
    if fraction.is_nan() {
        return [0; 3];
    }
    let at = fraction.clamp(0.0, 1.0) * (colours.len() - 1) as f32;
    let (low, part) = (colours[at as usize], at.fract());
    let high = colours[(at as usize + 1).min(colours.len() - 1)];
    [16, 8, 0].map(|shift| {
        let [low, high] = [low, high].map(|colour| (colour >> shift & 0xff) as f32);
        (low + part * (high - low)).round() as u8
    })
}

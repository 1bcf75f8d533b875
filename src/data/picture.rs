//! Converts a user's picture (PNG or JPEG of any size and colour) to the input of a network.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};

use super::crop::{Target, resize_crop};
use super::decode::{BACKDROP, Upright, cropped, decode, into_gray, read_bytes};
use super::ink;
use super::slic::average_segments;
use crate::shape::Shape;

/// A picture as the input of a network, before normalisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `[height][width][channels]` of the requested shape.
    pub pixels: Vec<u8>,
    /// Whether the picture was inverted, because it shows dark ink on a light background.
    pub inverted: bool,
    /// Whether nothing stands out from the background, so that a prediction would be meaningless.
    pub blank: bool,
    /// The width and height of the picture in the file, after its orientation was applied.
    pub original: (u32, u32),
}

/// How the pictures that users bring become inputs of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PicturePreparation {
    /// If pictures are scaled and cropped like those of a folder, the part of the shorter side that is cropped.
    pub crop: Option<f64>,
    /// The number of segments of one colour that an image is divided into, if it is.
    pub segments: Option<usize>,
}

impl PicturePreparation {
    /// Reads and prepares the picture at `path`.
    ///
    /// # Errors
    /// Like [`read_picture`].
    pub fn read(&self, path: &Path, shape: Shape) -> Result<Picture> {
        let picture = match self.crop {
            Some(crop) => read_cropped(path, shape, crop),
            None => read_picture(path, shape),
        };
        Ok(self.segmented(picture?, shape))
    }

    /// Decodes and prepares the bytes of a PNG or JPEG file.
    ///
    /// # Errors
    /// Like [`decode_picture`].
    pub fn decode(&self, bytes: &[u8], shape: Shape) -> Result<Picture> {
        let picture = match self.crop {
            Some(crop) => decode_cropped(bytes, shape, crop),
            None => decode_picture(bytes, shape),
        };
        Ok(self.segmented(picture?, shape))
    }

    /// Prepares a drawing.
    ///
    /// # Errors
    /// Like [`prepare_drawing`].
    pub fn draw(&self, pixels: Vec<u8>, size: (u32, u32), shape: Shape) -> Result<Picture> {
        Ok(self.segmented(prepare_drawing(pixels, size, shape, self.crop)?, shape))
    }

    fn segmented(&self, mut picture: Picture, shape: Shape) -> Picture {
        if let Some(count) = self.segments {
            average_segments(&mut picture.pixels, shape, count);
        }
        picture
    }
}

/// Reads the picture at `path` and converts it to `shape`; see [`decode_picture`].
///
/// # Errors
/// The errors of the file system and of [`decode_picture`], with the path.
pub fn read_picture(path: &Path, shape: Shape) -> Result<Picture> {
    let context = || format!("cannot read the picture {}", path.display());
    decode_picture(&read_bytes(path).with_context(context)?.bytes, shape).with_context(context)
}

/// Reads the picture at `path` in the same way as the pictures of a training folder; see [`decode_cropped`].
///
/// # Errors
/// Like [`read_picture`].
pub fn read_cropped(path: &Path, shape: Shape, crop: f64) -> Result<Picture> {
    let context = || format!("cannot read the picture {}", path.display());
    decode_cropped(&read_bytes(path).with_context(context)?.bytes, shape, crop).with_context(context)
}

/// Decodes the bytes of a PNG or JPEG file in the same way as the pictures of a training folder: scaled and cropped to
/// `shape`, and converted to its channels. `crop` is the part of the scaled picture's shorter side that is cropped.
///
/// # Errors
/// Like [`decode_picture`].
pub fn decode_cropped(bytes: &[u8], shape: Shape, crop: f64) -> Result<Picture> {
    let target = Target { height: shape.height, width: shape.width, crop };
    let upright = decode(bytes, BACKDROP, Some(target))?;
    let original = (upright.picture.width(), upright.picture.height());
    let pixels = cropped(upright, target, Some(shape.channels))?.values;
    Ok(Picture { blank: is_blank(&pixels), pixels, inverted: false, original })
}

/// Converts a drawing, the gray levels `[height][width]`, to the one channel of `shape`, as [`decode_cropped`] or without
/// `crop` [`decode_picture`] do with a file of the same pixels.
///
/// # Errors
/// If there are no pixels or not `height · width`, or `shape` has more than one channel.
pub fn prepare_drawing(
    pixels: Vec<u8>,
    (width, height): (u32, u32),
    shape: Shape,
    crop: Option<f64>,
) -> Result<Picture> {
    ensure!(!shape.is_empty() && shape.channels == 1, "a drawing is gray, but the network takes {shape}");
    ensure!(width > 0 && height > 0, "the drawing has no pixels");
    let count = pixels.len();
    let drawing = GrayImage::from_raw(width, height, pixels).filter(|it| it.as_raw().len() == count);
    let drawing = drawing.with_context(|| format!("{count} values are not a drawing of {width}×{height} pixels"))?;
    let original = (width, height);
    let Some(crop) = crop else {
        let ink::Prepared { pixels, inverted, blank } = ink::prepare(drawing, shape.height, shape.width);
        return Ok(Picture { pixels, inverted, blank, original });
    };
    let pixels = resize_crop(drawing, Target { height: shape.height, width: shape.width, crop })?;
    Ok(Picture { blank: is_blank(&pixels), pixels, inverted: false, original })
}

/// Whether the levels of all values are nearly the same.
fn is_blank(pixels: &[u8]) -> bool {
    let minimum = pixels.iter().min().copied().unwrap_or(0);
    pixels.iter().all(|&pixel| pixel - minimum < ink::MIN_CONTRAST)
}

/// Decodes the bytes of a PNG or JPEG file and converts the picture to `shape`.
///
/// With one channel, the result is light ink on black, prepared like MNIST. With three channels it is RGB: the picture is
/// scaled to fit inside `shape`, and the rest is filled with the colour of its border. A picture that already has the
/// right size keeps its pixels, except for a possible inversion. The orientation stored in the file is applied.
///
/// # Errors
/// If the bytes are not a complete PNG or JPEG picture, the picture is too large, or `shape` has neither one nor three
/// channels.
pub fn decode_picture(bytes: &[u8], shape: Shape) -> Result<Picture> {
    ensure!(!shape.is_empty(), "the network takes no pixels");
    let upright = decode(bytes, BACKDROP, None)?;
    let original = (upright.picture.width(), upright.picture.height());
    match shape.channels {
        1 => {
            let Upright { picture, transparent, .. } = upright;
            let mut prepared = ink::prepare(into_gray(picture), shape.height, shape.width);
            if prepared.blank && transparent {
                // White ink on a transparent page shows only on black.
                let on_black = into_gray(decode(bytes, 0, None)?.picture);
                prepared = ink::prepare(on_black, shape.height, shape.width);
            }
            let ink::Prepared { pixels, inverted, blank } = prepared;
            Ok(Picture { pixels, inverted, blank, original })
        }
        3 => {
            let colours = upright.picture.into_rgb8();
            let blank = is_flat(&colours);
            Ok(Picture { pixels: fit(&colours, shape), inverted: false, blank, original })
        }
        channels => bail!("a picture has 1 or 3 channels, but the network takes {channels}"),
    }
}

/// Whether the levels of every channel are nearly constant.
fn is_flat(picture: &RgbImage) -> bool {
    (0..3).all(|channel| {
        let levels = picture.pixels().map(|pixel| pixel.0[channel]);
        let (low, high) = levels.fold((u8::MAX, 0), |(low, high), level| (level.min(low), level.max(high)));
        high.saturating_sub(low) < ink::MIN_CONTRAST
    })
}

/// Scales an RGB picture to fit inside `shape` and centres it on a background of the median colour of its border.
fn fit(picture: &RgbImage, shape: Shape) -> Vec<u8> {
    let (width, height) = (shape.width as u32, shape.height as u32);
    if picture.dimensions() == (width, height) {
        return picture.as_raw().clone();
    }
    let scale = (f64::from(width) / f64::from(picture.width())).min(f64::from(height) / f64::from(picture.height()));
    let scaled = |side: u32, maximum: u32| ((f64::from(side) * scale).round() as u32).clamp(1, maximum);
    let (inner_width, inner_height) = (scaled(picture.width(), width), scaled(picture.height(), height));
    let inner = imageops::resize(picture, inner_width, inner_height, FilterType::Triangle);
    let background = [0, 1, 2].map(|channel| ink::border_median(picture, channel));
    let mut canvas = RgbImage::from_pixel(width, height, image::Rgb(background));
    let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
    imageops::replace(&mut canvas, &inner, i64::from(left), i64::from(top));
    canvas.into_raw()
}

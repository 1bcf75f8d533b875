//! Converts a user's picture (PNG or JPEG of any size and colour) to the input of a network.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage};

use super::{crop, ink};
use crate::shape::Shape;

pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;
const MAX_PIXELS: u64 = 100_000_000;
/// Enough for the largest picture with four channels of 16 bits.
const MAX_DECODER_BYTES: u64 = 1 << 30;
const DAMAGED: &str = "the picture is damaged or cut off; save or copy it again";

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

/// Reads the picture at `path` and converts it to `shape`; see [`decode_picture`].
///
/// # Errors
/// The errors of the file system and of [`decode_picture`], with the path.
pub fn read_picture(path: &Path, shape: Shape) -> Result<Picture> {
    let context = || format!("cannot read the picture {}", path.display());
    decode_picture(&read_bytes(path).with_context(context)?, shape).with_context(context)
}

/// Reads the picture at `path` in the same way as the pictures of a training folder: scaled and cropped to `shape`, and
/// converted to its channels.
///
/// # Errors
/// Like [`read_picture`].
pub fn read_cropped(path: &Path, shape: Shape) -> Result<Picture> {
    let read = || {
        let upright = decode_upright(&read_bytes(path)?)?;
        let original = (upright.width(), upright.height());
        let Shape { height, width, channels } = shape;
        let pixels = match channels {
            1 => crop::resize_crop(upright.into_luma8(), height, width)?,
            3 => crop::resize_crop(upright.into_rgb8(), height, width)?,
            _ => bail!("a picture has 1 or 3 channels, but the network takes {channels}"),
        };
        let minimum = pixels.iter().min().copied().unwrap_or(0);
        let blank = pixels.iter().all(|&pixel| pixel - minimum < ink::MIN_CONTRAST);
        Ok(Picture { pixels, inverted: false, blank, original })
    };
    read().with_context(|| format!("cannot read the picture {}", path.display()))
}

/// Reads a file, up to one byte more than `MAX_FILE_BYTES`; `decode` rejects the longer ones.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    // Checked before opening, because opening a named pipe would block forever.
    let metadata = path.metadata()?;
    ensure!(!metadata.is_dir(), "{} is a folder; give a PNG or JPEG file", path.display());
    ensure!(metadata.is_file(), "{} is not a regular file; give a PNG or JPEG file", path.display());
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Decodes a picture, applies its orientation and removes transparency.
pub(super) fn decode_upright(bytes: &[u8]) -> Result<DynamicImage> {
    Ok(flatten(decode(bytes)?))
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
    let upright = decode_upright(bytes)?;
    let original = (upright.width(), upright.height());
    match shape.channels {
        1 => {
            let ink::Prepared { pixels, inverted, blank } =
                ink::prepare(upright.into_luma8(), shape.height, shape.width);
            Ok(Picture { pixels, inverted, blank, original })
        }
        3 => {
            let colours = upright.into_rgb8();
            Ok(Picture { pixels: fit(&colours, shape), inverted: false, blank: is_flat(&colours), original })
        }
        channels => bail!("a picture has 1 or 3 channels, but the network takes {channels}"),
    }
}

/// Decodes a picture after checking that its header is within the limits.
fn decode(bytes: &[u8]) -> Result<DynamicImage> {
    ensure!(!bytes.is_empty(), "the file is empty");
    ensure!(bytes.len() as u64 <= MAX_FILE_BYTES, "the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
    let Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) = image::guess_format(bytes) else {
        bail!("it is neither a PNG nor a JPEG picture; convert it to PNG");
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    ensure!(pixels > 0, "the picture has no pixels");
    ensure!(
        pixels <= MAX_PIXELS,
        "{height}×{width} (height×width) is more than 100 megapixels; scale the picture down"
    );
    // The decoder would fill in the missing part of a truncated JPEG.
    ensure!(format != ImageFormat::Jpeg || jpeg_is_whole(bytes), DAMAGED);
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    decoded.apply_orientation(orientation);
    Ok(decoded)
}

/// Joins a decoder's message into one line. The causes are dropped, because the message already contains them.
fn damaged(error: ImageError) -> anyhow::Error {
    let words: Vec<String> = error.to_string().split_whitespace().map(String::from).collect();
    anyhow!("{DAMAGED} ({})", words.join(" "))
}

/// Whether a scan is followed by the end-of-image marker. Segments are skipped by their lengths, so the markers of a
/// thumbnail in the header do not count. Data after the end is ignored.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let (mut rest, mut scanned) = (bytes, false);
    // In the data of a scan, every 0xFF is followed by a zero. A marker may be preceded by 0xFF fill bytes.
    while let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF)) {
        let (marker, after) = (rest[at + 1], &rest[at + 2..]);
        rest = match (marker, after) {
            (END_OF_IMAGE, _) => return scanned,
            // The start-of-image and restart markers have no segment.
            (0x01 | 0xD0..=0xD8, _) => after,
            (_, &[high, low, ..]) => after.get(usize::from(u16::from_be_bytes([high, low])).max(2)..).unwrap_or(&[]),
            _ => return false,
        };
        scanned |= marker == START_OF_SCAN;
    }
    false
}

/// Whether the levels of every channel are nearly constant.
fn is_flat(picture: &RgbImage) -> bool {
    (0..3).all(|channel| {
        let levels = picture.pixels().map(|pixel| pixel.0[channel]);
        let (low, high) = levels.fold((u8::MAX, 0), |(low, high), level| (level.min(low), level.max(high)));
        high.saturating_sub(low) < ink::MIN_CONTRAST
    })
}

/// Composites a transparent picture onto white, or onto black if its content is light and would be invisible on white.
fn flatten(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return picture;
    }
    let layer: RgbaImage = picture.into_rgba8();
    let (mut brightness, mut opacity) = (0u64, 0u64);
    for pixel in layer.pixels() {
        let [red, green, blue, alpha] = pixel.0.map(u64::from);
        brightness += (red + green + blue) * alpha;
        opacity += 3 * alpha;
    }
    let background = if brightness > 200 * opacity { 0 } else { 255 };
    let flat = RgbImage::from_fn(layer.width(), layer.height(), |x, y| {
        let [red, green, blue, alpha] = layer.get_pixel(x, y).0;
        let alpha = u32::from(alpha);
        image::Rgb([red, green, blue].map(|c| ((u32::from(c) * alpha + background * (255 - alpha) + 127) / 255) as u8))
    });
    DynamicImage::ImageRgb8(flat)
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

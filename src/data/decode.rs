//! Decodes PNG and JPEG files within limits of size and memory, and converts their colours.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use image::metadata::Orientation;
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Luma, Rgb,
    RgbImage, RgbaImage,
};

use super::budget::{Budget, Permit};
use super::crop::{self, Target};
use super::jpeg;
use super::records::{convert_to, gray_of};

pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// Phones take pictures of 200 megapixels.
const MAX_PIXELS: u64 = 250_000_000;
const MAX_DECODED_BYTES: u64 = 1 << 30;
const DAMAGED: &str = "the picture is damaged or cut off; save or copy it again";
/// What all threads together may use for the bytes of large files, and for decoding. A picture that takes more is decoded
/// alone.
static FILES: Budget = Budget::new(256 << 20);
static DECODING: Budget = Budget::new(1 << 30);
/// The bytes of a smaller file are not counted.
const LARGE_FILE: u64 = 4 << 20;

/// The gray level behind transparent pictures.
pub const BACKDROP: u8 = 255;

/// The bytes of a file.
pub struct FileBytes {
    pub bytes: Vec<u8>,
    _permit: Option<Permit>,
}

/// A decoded picture in its own colours, upright.
pub struct Upright {
    pub picture: DynamicImage,
    /// Whether the picture in the file has an alpha channel or transparent colours.
    pub transparent: bool,
    _permit: Permit,
}

/// The pixels of a picture that was scaled and cropped.
#[derive(Debug)]
pub struct Cropped {
    /// 1 or 3.
    pub channels: usize,
    /// `[height][width][channels]`
    pub values: Vec<u8>,
}

/// Reads a file, up to one byte more than `MAX_FILE_BYTES`; [`decode`] rejects the longer ones.
pub fn read_bytes(path: &Path) -> Result<FileBytes> {
    // Checked before opening, because opening a named pipe would block forever.
    let metadata = path.metadata()?;
    ensure!(!metadata.is_dir(), "{} is a folder; give a PNG or JPEG file", path.display());
    ensure!(metadata.is_file(), "{} is not a regular file; give a PNG or JPEG file", path.display());
    let length = metadata.len().min(MAX_FILE_BYTES + 1);
    let permit = (length > LARGE_FILE).then(|| FILES.take(length));
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(FileBytes { bytes, _permit: permit })
}

/// Decodes a picture after checking that its header is within the limits, applies its orientation and puts `backdrop`
/// behind what is transparent. The memory to scale the picture to `target` is reserved with that to decode it.
///
/// # Errors
/// If the bytes are not a complete PNG or JPEG picture of a supported kind, or the picture is too large.
pub fn decode(bytes: &[u8], backdrop: u8, target: Option<Target>) -> Result<Upright> {
    ensure!(!bytes.is_empty(), "the file is empty");
    ensure!(bytes.len() as u64 <= MAX_FILE_BYTES, "the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
    let Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) = image::guess_format(bytes) else {
        bail!("it is neither a PNG nor a JPEG picture; convert it to PNG");
    };
    let jpeg = (format == ImageFormat::Jpeg).then(|| jpeg::kind(bytes).map_err(fault)).transpose()?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES + (64 << 20)); // the decoder's own tables come on top
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    ensure!(pixels > 0, "the picture has no pixels");
    ensure!(
        pixels <= MAX_PIXELS,
        "{height}×{width} (height×width) is more than {} megapixels; scale the picture down",
        MAX_PIXELS / 1_000_000
    );
    let decoded = decoder.total_bytes();
    ensure!(
        decoded <= MAX_DECODED_BYTES,
        "the picture takes {:.1} GB when it is decoded, more than 1 GiB; scale it down or save it with 8 bits per channel",
        decoded as f64 / 1e9
    );
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    // Memory for the pixels, for a second copy if they are turned or their colours converted, and for what a JPEG's
    // decoder keeps: the file, and perhaps all coefficients.
    let colour = decoder.color_type();
    let copies = orientation != Orientation::NoTransforms
        || colour.has_alpha()
        || colour.bytes_per_pixel() > colour.channel_count();
    let coefficients = jpeg.map_or(0, |kind| bytes.len() as u64 + 6 * pixels * u64::from(kind.keeps_coefficients));
    let scaling = target.map_or(0, |target| crop::working_bytes((width, height), target));
    let permit = DECODING.take(decoded * (1 + u64::from(copies)) + coefficients.max(scaling));
    if jpeg.is_some() {
        jpeg::check(bytes).map_err(fault)?;
    }
    let mut picture = eight_bits(DynamicImage::from_decoder(decoder).map_err(damaged)?);
    picture.apply_orientation(orientation);
    let transparent = picture.color().has_alpha();
    Ok(Upright { picture: flatten(picture, backdrop), transparent, _permit: permit })
}

/// The upper eight bits of every value, as PIL reads 16-bit PNGs.
fn eight_bits(picture: DynamicImage) -> DynamicImage {
    let (width, height) = (picture.width(), picture.height());
    let upper = |values: Vec<u16>| values.into_iter().map(|value| (value >> 8) as u8).collect::<Vec<u8>>();
    let converted = match picture {
        DynamicImage::ImageLuma16(wide) => {
            GrayImage::from_raw(width, height, upper(wide.into_raw())).map(DynamicImage::from)
        }
        DynamicImage::ImageLumaA16(wide) => {
            GrayAlphaImage::from_raw(width, height, upper(wide.into_raw())).map(DynamicImage::from)
        }
        DynamicImage::ImageRgb16(wide) => {
            RgbImage::from_raw(width, height, upper(wide.into_raw())).map(DynamicImage::from)
        }
        DynamicImage::ImageRgba16(wide) => {
            RgbaImage::from_raw(width, height, upper(wide.into_raw())).map(DynamicImage::from)
        }
        narrow => return narrow,
    };
    converted.unwrap_or_default()
}

/// Joins a decoder's message into one line. The causes are dropped, because the message already contains them.
fn damaged(error: ImageError) -> anyhow::Error {
    let words: Vec<String> = error.to_string().split_whitespace().map(String::from).collect();
    let cause = words.join(" ");
    match error {
        ImageError::Unsupported(_) => {
            anyhow!("the picture is of a kind that is not supported ({cause}); convert it to PNG")
        }
        ImageError::Limits(_) => anyhow!("the picture takes too much memory ({cause}); scale it down"),
        _ => anyhow!("{DAMAGED} ({cause})"),
    }
}

fn fault(fault: jpeg::Fault) -> anyhow::Error {
    match fault {
        jpeg::Fault::Damaged => anyhow!(DAMAGED),
        jpeg::Fault::Unsupported(_) => anyhow!("{fault}; convert the picture to PNG or baseline JPEG"),
    }
}

/// Composites a transparent picture onto a uniform gray `backdrop`. One without colours stays gray.
fn flatten(picture: DynamicImage, backdrop: u8) -> DynamicImage {
    if !picture.color().has_alpha() {
        return picture;
    }
    let over = |value: u8, alpha: u8| {
        let (value, alpha, backdrop) = (u32::from(value), u32::from(alpha), u32::from(backdrop));
        ((value * alpha + backdrop * (255 - alpha) + 127) / 255) as u8
    };
    if picture.color().has_color() {
        let layer = picture.into_rgba8();
        let flat = |x, y| {
            let [red, green, blue, alpha] = layer.get_pixel(x, y).0;
            Rgb([red, green, blue].map(|value| over(value, alpha)))
        };
        return DynamicImage::ImageRgb8(RgbImage::from_fn(layer.width(), layer.height(), flat));
    }
    let layer = picture.into_luma_alpha8();
    let flat = |x, y| {
        let [value, alpha] = layer.get_pixel(x, y).0;
        Luma([over(value, alpha)])
    };
    DynamicImage::ImageLuma8(GrayImage::from_fn(layer.width(), layer.height(), flat))
}

/// The gray levels of a picture. Colours are weighted as in ITU-R 601-2, as PIL's mode `L` does.
pub fn into_gray(picture: DynamicImage) -> GrayImage {
    if !picture.color().has_color() {
        return picture.into_luma8();
    }
    let (width, height, colours) = (picture.width(), picture.height(), picture.into_rgb8().into_raw());
    let gray = colours.chunks_exact(3).map(|pixel| gray_of([pixel[0], pixel[1], pixel[2]])).collect();
    GrayImage::from_raw(width, height, gray).unwrap_or_default()
}

/// Scales and crops a picture in its own channels and then converts it to `channels`; without a number, a gray picture has
/// one channel and any other three.
///
/// # Errors
/// If the picture is too long and thin, or the channels are neither 1 nor 3.
pub fn cropped(upright: Upright, target: Target, channels: Option<usize>) -> Result<Cropped> {
    let own = own_channels(&upright.picture);
    let values = match own {
        1 => crop::resize_crop(upright.picture.into_luma8(), target)?,
        _ => crop::resize_crop(upright.picture.into_rgb8(), target)?,
    };
    let channels = channels.unwrap_or(own);
    ensure!(matches!(channels, 1 | 3), "a picture has 1 or 3 channels, but the network takes {channels}");
    if channels == own {
        return Ok(Cropped { channels, values });
    }
    let mut converted = vec![0; values.len() / own * channels];
    convert_to(&values, own, &mut converted, channels);
    Ok(Cropped { channels, values: converted })
}

/// 1 for a gray picture, 3 for any other.
fn own_channels(picture: &DynamicImage) -> usize {
    if picture.color().has_color() { 3 } else { 1 }
}

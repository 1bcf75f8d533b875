//! A user's pictures: sizes, colour types, inversion, preparation as for MNIST, and files that are not pictures.

use std::io::Cursor;
use std::path::Path;

use cnn_cuda::data::picture::{Picture, decode_picture, read_picture};
use cnn_cuda::shape::Shape;
use image::{DynamicImage, GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;

const MNIST: Shape = Shape::new(28, 28, 1);
const CIFAR: Shape = Shape::new(32, 32, 3);

fn encode(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decode(picture: impl Into<DynamicImage>, shape: Shape) -> Picture {
    decode_picture(&encode(picture, ImageFormat::Png), shape).unwrap()
}

/// A thick dark `[` on a light page, well off centre.
fn scan(width: u32, height: u32) -> GrayImage {
    GrayImage::from_fn(width, height, |x, y| {
        let (x, y) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
        let upright = (0.1..0.15).contains(&x) && (0.1..0.4).contains(&y);
        let bars = (0.1..0.3).contains(&x) && ((0.1..0.15).contains(&y) || (0.35..0.4).contains(&y));
        Luma([if upright || bars { 40 } else { 220 }])
    })
}

/// The first and last row, and the first and last column, with a pixel brighter than half.
fn extent(pixels: &[u8]) -> (usize, usize, usize, usize) {
    let inked = |at: &usize| pixels[*at] > 127;
    let rows: Vec<usize> = (0..784).filter(inked).map(|at| at / 28).collect();
    let columns: Vec<usize> = (0..784).filter(inked).map(|at| at % 28).collect();
    let (low, high) = (columns.iter().min().unwrap(), columns.iter().max().unwrap());
    (rows[0], rows[rows.len() - 1], *low, *high)
}

#[test]
fn a_picture_of_the_right_size_is_not_resampled() {
    let light_on_dark =
        GrayImage::from_fn(28, 28, |x, y| Luma([if x.abs_diff(14) + y.abs_diff(14) < 6 { 200 } else { 3 }]));
    let read = decode(light_on_dark.clone(), MNIST);
    assert_eq!(read.pixels, *light_on_dark.as_raw());
    assert_eq!((read.inverted, read.original), (false, (28, 28)));

    let mut dark_on_light = light_on_dark.clone();
    image::imageops::invert(&mut dark_on_light);
    let read = decode(dark_on_light, MNIST);
    assert_eq!(read.pixels, *light_on_dark.as_raw());
    assert!(read.inverted);

    let colours = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8, 250]));
    let read = decode(colours.clone(), CIFAR);
    assert_eq!(read.pixels, *colours.as_raw());
    assert!(!read.inverted);
}

#[test]
fn a_scan_is_prepared_as_for_mnist() {
    for (width, height) in [(1200, 1200), (600, 600), (60, 60), (1000, 500)] {
        let read = decode(scan(width, height), MNIST);
        assert!(read.inverted);
        assert_eq!(read.original, (width, height));
        let (top, bottom, left, right) = extent(&read.pixels);
        let longer = (bottom - top + 1).max(right - left + 1);
        assert!((19..=21).contains(&longer), "{width}×{height}: the ink spans {longer} pixels");
        assert_eq!(read.pixels.iter().max(), Some(&255));
        assert!(read.pixels[..28].iter().all(|&pixel| pixel == 0), "the background is not black");
        let mass: f64 = read.pixels.iter().map(|&pixel| f64::from(pixel)).sum();
        let moment: f64 = (0..784).map(|at| f64::from(read.pixels[at]) * ((at / 28) as f64 + 0.5)).sum();
        assert!((moment / mass - 14.0).abs() <= 0.5, "centre of mass at row {}", moment / mass);
    }
}

#[test]
fn a_scan_gives_the_same_pixels_in_every_colour_type() {
    let grey = scan(200, 200);
    let expected = decode(grey.clone(), MNIST).pixels;
    let wide = DynamicImage::ImageLuma8(grey.clone());
    for converted in
        [wide.to_luma16().into(), wide.to_rgb8().into(), wide.to_rgba8().into(), DynamicImage::from(wide.to_rgb16())]
    {
        assert_eq!(decode(converted, MNIST).pixels, expected);
    }
    let jpeg = decode_picture(&encode(grey, ImageFormat::Jpeg), MNIST).unwrap();
    assert_eq!(extent(&jpeg.pixels), extent(&expected));
}

#[test]
fn dark_and_light_ink_is_found_on_a_transparent_background() {
    let page = scan(100, 100);
    let expected = extent(&decode(page.clone(), MNIST).pixels);
    for ink in [0, 255] {
        let layer = RgbaImage::from_fn(100, 100, |x, y| {
            Rgba([ink, ink, ink, if page.get_pixel(x, y).0[0] < 100 { 255 } else { 0 }])
        });
        assert_eq!(extent(&decode(layer, MNIST).pixels), expected, "ink {ink}");
    }
    let nothing = image::ImageBuffer::from_pixel(50, 50, LumaA([7u8, 0]));
    assert_eq!(decode(nothing, MNIST).pixels, vec![0; 784]);
}

#[test]
fn a_hairline_on_a_large_page_stays_visible() {
    let page =
        GrayImage::from_fn(3000, 3000, |x, y| Luma([if x == 1500 && (500..2500).contains(&y) { 0 } else { 255 }]));
    let (top, bottom, _, _) = extent(&decode(page, MNIST).pixels);
    assert!(bottom - top >= 18, "rows {top} to {bottom}");
}

/// An L's centre of mass is far below and left of its middle, so centring by mass alone would push its top out.
#[test]
fn centring_pushes_no_ink_out_of_the_image() {
    let page = GrayImage::from_fn(400, 400, |x, y| {
        let (upright, foot) = ((100..112).contains(&x) && y < 300, (100..300).contains(&x) && (240..300).contains(&y));
        Luma([if y >= 100 && (upright || foot) { 0 } else { 255 }])
    });
    let (top, bottom, left, right) = extent(&decode(page, MNIST).pixels);
    assert!(bottom - top >= 18 && right - left >= 18, "rows {top} to {bottom}, columns {left} to {right}");
}

#[test]
fn uniform_pictures_of_any_size_stay_uniform() {
    for grey in [0, 128, 255] {
        for (width, height) in [(1, 1), (1, 500), (27, 28), (300, 200)] {
            let page = GrayImage::from_pixel(width, height, Luma([grey]));
            assert_eq!(decode(page.clone(), MNIST).pixels, vec![0; 784]);
            let colours = decode(page, CIFAR).pixels;
            assert!(colours.iter().all(|&pixel| pixel == grey), "{width}×{height} of {grey}");
        }
    }
}

/// Enlarged ink has a wide soft edge, half of it outside the 20-pixel box, which must not push the ink out.
#[test]
fn tiny_ink_is_complete_and_centred() {
    for (width, height) in [(1, 1), (2, 2), (3, 3), (4, 4), (1, 2), (1, 5), (12, 1), (1, 30)] {
        for (left, top) in [(0, 0), (60 - width, 60 - height), (20, 25)] {
            let inked = |x, y| (left..left + width).contains(&x) && (top..top + height).contains(&y);
            let page = GrayImage::from_fn(60, 60, |x, y| Luma([if inked(x, y) { 255 } else { 0 }]));
            let (top_row, bottom, first, last) = extent(&decode(page, MNIST).pixels);
            let what =
                format!("{width}×{height} at {left}, {top}: rows {top_row}..={bottom}, columns {first}..={last}");
            let longer = (bottom - top_row).max(last - first) + 1;
            assert!((19..=21).contains(&longer), "{what}");
            // Ink at a page's edge is blurred on its inner side only, which shifts its centre of mass.
            let most = if left == 20 { 1 } else { 8 };
            assert!((top_row + bottom).abs_diff(27) <= most && (first + last).abs_diff(27) <= most, "{what}");
        }
    }
}

#[test]
fn a_picture_without_ink_is_reported_as_blank() {
    for (width, height) in [(28, 28), (32, 32), (200, 100)] {
        for grey in [0, 100, 255] {
            let page = GrayImage::from_fn(width, height, |x, y| Luma([grey ^ ((x ^ y) & 7) as u8]));
            assert!(decode(page.clone(), MNIST).blank && decode(page, CIFAR).blank, "{width}×{height} of {grey}");
        }
        let written = scan(width, height);
        assert!(!decode(written.clone(), MNIST).blank && !decode(written, CIFAR).blank, "{width}×{height}");
    }
}

#[test]
fn a_colour_picture_is_padded_with_the_colour_of_its_border() {
    let wide = RgbImage::from_fn(128, 64, |x, y| {
        if (32..96).contains(&x) && (16..48).contains(&y) { Rgb([0, 0, 255]) } else { Rgb([200, 30, 10]) }
    });
    let read = decode(wide, CIFAR).pixels;
    let pixel = |row: usize, column: usize| &read[(row * 32 + column) * 3..][..3];
    assert_eq!(pixel(0, 0), [200, 30, 10]);
    assert_eq!(pixel(16, 16), [0, 0, 255]);
    assert_eq!(pixel(16, 1), [200, 30, 10]);
}

fn message(result: anyhow::Result<Picture>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn errors_name_the_file_and_the_problem() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seven.png");
    assert!(message(read_picture(&path, MNIST)).contains("seven.png"));
    assert!(message(read_picture(folder.path(), MNIST)).contains("is a folder"));
    let expect = |bytes: &[u8], text: &str| {
        std::fs::write(&path, bytes).unwrap();
        let message = message(read_picture(&path, MNIST));
        assert!(message.contains("seven.png") && message.contains(text), "{message}");
    };
    expect(b"", "empty");
    expect(b"hello, world", "neither a PNG nor a JPEG");
    expect(b"GIF89a and so on", "neither a PNG nor a JPEG");
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let whole = encode(scan(300, 300), format);
        for part in [whole.len() / 4, whole.len() / 2, whole.len() - 40] {
            expect(&whole[..part], "damaged or cut off");
        }
    }
    assert!(message(read_picture(Path::new(""), MNIST)).contains("cannot read"));
    let whole = encode(scan(30, 30), ImageFormat::Png);
    assert!(message(decode_picture(&whole, Shape::new(8, 8, 4))).contains("takes 4"));
}

/// A device may be endless, and opening a pipe may block forever.
#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    assert!(message(read_picture(Path::new("/dev/zero"), MNIST)).contains("/dev/zero is not a regular file"));
}

/// A thumbnail in the header has an end marker of its own, and bytes after the picture may contain any marker.
#[test]
fn the_end_of_a_jpeg_is_found_despite_other_markers() {
    let plain = encode(scan(300, 300), ImageFormat::Jpeg);
    let thumbnail = encode(scan(30, 30), ImageFormat::Jpeg);
    let length = (thumbnail.len() as u16 + 2).to_be_bytes();
    let whole = [&plain[..2], &[0xFF, 0xE1], &length, &thumbnail, &plain[2..]].concat();
    let expected = decode_picture(&plain, MNIST).unwrap();
    for trailing in [&b""[..], b"\xFF\xDA\0", b"\xFF\xDA\xFF\xD8\xFF", &[0; 100], &plain[..plain.len() / 2]] {
        assert_eq!(decode_picture(&[&whole[..], trailing].concat(), MNIST).unwrap(), expected);
    }
    for length in [whole.len() - 1, whole.len() - 2, whole.len() / 2, thumbnail.len() + 100] {
        assert!(message(decode_picture(&whole[..length], MNIST)).contains("damaged"), "{length} bytes");
    }
}

#[test]
fn decoder_errors_are_one_line() {
    for bytes in [&b"\xFF\xD8\xFF"[..], b"\xFF\xD8\xFF\xE0\0", b"\x89PNG\r\n\x1A\n", b"\x89PNG\r\n\x1A\n\0\0\0\x0DIHDR"]
    {
        let message = message(decode_picture(bytes, MNIST));
        assert!(message.contains("damaged") && !message.contains('\n'), "{message:?}");
        assert!(message.matches(" decoding ").count() <= 1, "{message:?} repeats itself");
    }
}

/// A PNG whose header claims another size, with a matching checksum.
fn claiming(picture: impl Into<DynamicImage>, width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encode(picture, ImageFormat::Png);
    for (at, side) in [(16, width), (20, height)] {
        bytes[at..at + 4].copy_from_slice(&side.to_be_bytes());
    }
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

#[test]
fn a_picture_that_takes_too_much_memory_is_refused_before_decoding() {
    let bytes = claiming(scan(30, 30), 20_000, 30_000);
    assert!(message(decode_picture(&bytes, MNIST)).contains("30000×20000 (height×width) is more than 250 megapixels"));
    let bytes = claiming(DynamicImage::ImageLuma8(scan(30, 30)).to_rgba16(), 14_000, 14_000);
    let text = message(decode_picture(&bytes, MNIST));
    assert!(text.contains("takes 1.6 GB when it is decoded, more than 1 GiB"), "{text}");
}

/// The decoder fills in what is missing.
#[test]
fn a_jpeg_whose_scan_is_cut_off_before_its_end_marker_is_damaged() {
    for picture in [DynamicImage::from(scan(300, 200)), DynamicImage::from(scan(300, 200)).to_rgb8().into()] {
        let whole = encode(picture, ImageFormat::Jpeg);
        decode_picture(&whole, MNIST).unwrap();
        for length in [whole.len() - 20, whole.len() * 9 / 10, whole.len() / 2 + 300] {
            let cut = [&whole[..length], b"\xFF\xD9"].concat();
            assert!(message(decode_picture(&cut, MNIST)).contains("damaged or cut off"), "{length} of {}", whole.len());
        }
    }
}

#[test]
fn jpegs_of_kinds_that_cannot_be_decoded_are_not_called_damaged() {
    let whole = encode(scan(30, 30), ImageFormat::Jpeg);
    let frame = whole.windows(2).position(|pair| pair == b"\xFF\xC0").unwrap();
    for (at, value, kind) in [
        (1, 0xC9, "arithmetic-coded JPEG"),
        (1, 0xCA, "arithmetic-coded JPEG"),
        (1, 0xC3, "lossless JPEG"),
        (4, 12, "12-bit JPEG"),
    ] {
        let mut bytes = whole.clone();
        bytes[frame + at] = value;
        let text = message(decode_picture(&bytes, MNIST));
        assert!(text.contains(&format!("{kind} is not supported; convert")) && !text.contains("damaged"), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_picture(&bytes, MNIST);
    }

    #[test]
    fn damaged_pictures_do_not_panic(
        png in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encode(scan(40, 50), if png { ImageFormat::Png } else { ImageFormat::Jpeg });
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode_picture(&bytes, MNIST);
        let _ = decode_picture(&bytes, CIFAR);
    }

    #[test]
    fn a_picture_of_any_size_gives_the_requested_shape(
        width in 1u32..80, height in 1u32..80, side in 1usize..40, seed in any::<u8>(),
    ) {
        let noise = GrayImage::from_fn(width, height, |x, y| Luma([(x * 31 + y * 17) as u8 ^ seed]));
        for shape in [Shape::new(side, 28, 1), Shape::new(28, side, 3)] {
            prop_assert_eq!(decode(noise.clone(), shape).pixels.len(), shape.len());
        }
    }
}

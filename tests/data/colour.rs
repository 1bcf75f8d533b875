//! Colours of a folder's pictures: gray ones with transparency, the backdrop, and conversions between gray and colour.

use std::io::Write;
use std::path::Path;

use cnn_cuda::data::picture::read_cropped;
use cnn_cuda::data::{Dataset, Residency};
use cnn_cuda::shape::Shape;
use image::ExtendedColorType::{L8, La8, Rgb8, Rgba8};

use super::archive::pack;
use super::folder::{load, load_with};
use super::{assert_contains, message};

/// What lies behind transparency.
const BACKDROP: u8 = 255;

fn write(path: &Path, pixels: &[u8], kind: image::ExtendedColorType) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let count = pixels.len() as u32 * 8 / u32::from(kind.bits_per_pixel());
    image::save_buffer(path, pixels, count, 1, kind).unwrap();
}

/// A gray PNG of one row in which one level is transparent.
fn gray_with_transparent_level(pixels: &[u8], level: u8) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(&[kind, data].concat());
        [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
    };
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(&[&[0], pixels].concat()).unwrap();
    let header = [&(pixels.len() as u32).to_be_bytes()[..], &1_u32.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let rows = zlib.finish().unwrap();
    let chunks =
        [chunk(b"IHDR", &header), chunk(b"tRNS", &[0, level]), chunk(b"IDAT", &rows), chunk(b"IEND", &[])].concat();
    [b"\x89PNG\r\n\x1a\n", &chunks[..]].concat()
}

#[test]
fn gray_pictures_with_transparency_are_gray() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["a", "b"] {
        write(&folder.path().join(class).join("1.png"), &[10, 255, 20, 0], La8);
        std::fs::write(folder.path().join(class).join("2.png"), gray_with_transparent_level(&[30, 40], 40)).unwrap();
        write(&folder.path().join(class).join("3.png"), &[50, 60], L8);
    }
    let set = load(folder.path()).unwrap();
    assert_eq!(set.shape, Shape::new(1, 2, 1));
    let mut rows: Vec<&[u8]> = set.train.images.chunks(2).chain(set.test.images.chunks(2)).collect();
    rows.sort_unstable();
    assert_eq!(rows, [[10, BACKDROP], [10, BACKDROP], [30, BACKDROP], [30, BACKDROP], [50, 60], [50, 60]]);
}

/// The backdrop was white behind ink of level 200 and black behind 201.
#[test]
fn what_lies_behind_transparency_does_not_depend_on_the_ink() {
    let folder = tempfile::tempdir().unwrap();
    for level in [0, 100, 200, 201, 255] {
        let path = folder.path().join("alpha.png");
        write(&path, &[level, level, level, 255, 9, 9, 9, 0, level, 0, level, 128], Rgba8);
        let half = |value: u8| ((u32::from(value) * 128 + 255 * 127 + 127) / 255) as u8;
        let expected = [level, level, level, BACKDROP, BACKDROP, BACKDROP, half(level), half(0), half(level)];
        assert_eq!(read_cropped(&path, Shape::new(1, 3, 3), 1.0).unwrap().pixels, expected);
    }
}

/// Training pictures in `train` and test pictures in `test`, gray ones where `colours` is false.
fn write_set(root: &Path, colours: [bool; 2]) {
    for (split, colour) in ["train", "test"].into_iter().zip(colours) {
        for (class, value) in [("a", 10), ("b", 20)] {
            let path = root.join(split).join(class).join("1.png");
            match colour {
                true => write(&path, &[value, 100, 200, value, 0, 0], Rgb8),
                false => write(&path, &[value, 200], L8),
            }
        }
    }
}

/// Loads the folder into memory, streamed, and as an archive in both ways, all of which must give the same.
fn load_all_ways(root: &Path, channels: Option<usize>, test_only: bool) -> Dataset {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("set.tar");
    std::fs::write(&archive, pack(root)).unwrap();
    let load = |path: &Path, residency| {
        load_with(path, |options| {
            (options.channels, options.test_only, options.residency) = (channels, test_only, residency);
            options.normalisation = test_only.then(|| (vec![0.5], vec![0.5]));
        })
        .unwrap()
    };
    let expected = load(root, Residency::Resident);
    for path in [root, &archive] {
        for residency in [Residency::Resident, Residency::Stream] {
            let set = load(path, residency);
            assert_eq!((set.shape, set.fingerprint()), (expected.shape, expected.fingerprint()));
            assert_eq!((set.mean, set.std), (expected.mean.clone(), expected.std.clone()));
            let mut images = set.test.images.clone();
            if let Some(streamed) = set.test.streamed {
                images = vec![0; expected.test.images.len()];
                streamed.source.read(&[0, 1], &mut images).unwrap();
            }
            assert_eq!(images, expected.test.images);
        }
    }
    expected
}

/// PIL's `convert("L")` of the same colours.
const GRAYS: [u8; 4] = [84, 3, 87, 6];

#[test]
fn the_training_pictures_decide_the_channels_of_all() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), [false, true]);
    let set = load_all_ways(folder.path(), None, false);
    assert_eq!((set.shape.channels, &set.train.images[..]), (1, &[10, 200, 20, 200][..]));
    assert_eq!(set.test.images, GRAYS);
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), [true, false]);
    let set = load_all_ways(folder.path(), None, false);
    assert_eq!(
        (set.shape.channels, &set.test.images[..]),
        (3, &[10, 10, 10, 200, 200, 200, 20, 20, 20, 200, 200, 200][..])
    );
}

#[test]
fn given_channels_decide_how_test_pictures_are_read() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), [true, true]);
    let set = load_all_ways(folder.path(), Some(1), true);
    assert_eq!((set.shape.channels, &set.test.images[..]), (1, &GRAYS[..]));
    let picture = folder.path().join("test/b/1.png");
    assert_eq!(read_cropped(&picture, Shape::new(1, 2, 1), 1.0).unwrap().pixels, GRAYS[2..]);
    write_set(folder.path(), [false, false]);
    let set = load_all_ways(folder.path(), Some(3), true);
    assert_eq!((set.shape.channels, &set.test.images[..3]), (3, &[10; 3][..]));
    assert_eq!(read_cropped(&picture, Shape::new(1, 2, 3), 1.0).unwrap().pixels, [20, 20, 20, 200, 200, 200]);
}

/// The limit was 100 megapixels; phones take more.
#[test]
fn pictures_of_108_megapixels_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train/a/1.png");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::GrayImage::from_pixel(12_000, 9_000, image::Luma([7])).save(&path).unwrap();
    assert_eq!(read_cropped(&path, Shape::new(2, 2, 1), 1.0).unwrap().pixels, [7; 4]);
    for name in ["train/b/1.png", "test/a/1.png"] {
        write(&folder.path().join(name), &[7], L8);
    }
    let words = ["train/a/1.png is 9000×12000 (height×width)", "at most 4096×4096; scale them with --image-size"];
    assert_contains(&message(load(folder.path())), &words);
}

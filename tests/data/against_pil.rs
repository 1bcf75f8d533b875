//! Forty strange pictures: the same classes, labels and pixels as torchvision's `ImageFolder` and PIL, within 1 (JPEGs in
//! colour: 2).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cnn_cuda::data::picture::{decode_picture, read_cropped};
use cnn_cuda::shape::Shape;
use safetensors::SafeTensors;

use super::folder::load_with;

const HEIGHT: usize = 12;
const WIDTH: usize = 16;

/// What `tests/reference/pictures.py` wrote.
struct Reference {
    classes: Vec<String>,
    labels: BTreeMap<String, u32>,
    /// The bytes of every file, and its pixels with three channels and with one.
    files: BTreeMap<String, [Vec<u8>; 3]>,
}

fn reference() -> Reference {
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/pictures.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let labels: BTreeMap<String, u32> = serde_json::from_str(&metadata["labels"]).unwrap();
    let of = |kind: &str, path: &str| tensors.tensor(&format!("{kind}.{path}")).unwrap().data().to_vec();
    let files = labels.keys().map(|path| (path.clone(), ["file", "rgb", "gray"].map(|kind| of(kind, path)))).collect();
    Reference { classes: serde_json::from_str(&metadata["classes"]).unwrap(), labels, files }
}

/// The largest difference, and how many values differ by more than 1.
fn difference(a: &[u8], b: &[u8]) -> (u8, usize) {
    assert_eq!(a.len(), b.len());
    let differences = || a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    (differences().max().unwrap_or(0), differences().filter(|&it| it > 1).count())
}

#[test]
fn classes_labels_and_pixels_are_those_of_image_folder() {
    let Reference { classes, labels, files } = reference();
    assert_eq!((files.len(), labels.len()), (40, 40));
    let folder = tempfile::tempdir().unwrap();
    for (path, [bytes, ..]) in &files {
        let target = folder.path().join("train").join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
    fs::create_dir_all(folder.path().join("test").join(&classes[0])).unwrap();
    let any = files.keys().find(|path| path.starts_with(&classes[0])).unwrap();
    fs::write(folder.path().join("test").join(&classes[0]).join("1.png"), &files[any][0]).unwrap();
    let mut failures = Vec::new();
    for (channels, which) in [(3, 1), (1, 2)] {
        let set = load_with(folder.path(), |options| options.channels = Some(channels)).unwrap();
        assert_eq!((&set.classes, set.shape), (&classes, Shape::new(HEIGHT, WIDTH, channels)));
        // Both are in the order of the classes, then of the names.
        let expected: Vec<(&String, u32)> = {
            let mut all: Vec<_> = labels.iter().map(|(path, label)| (path, *label)).collect();
            all.sort_by_key(|&(path, label)| (label, path));
            all
        };
        assert_eq!(set.train.labels, expected.iter().map(|&(_, label)| label).collect::<Vec<u32>>());
        for ((path, _), pixels) in expected.iter().zip(set.train.images.chunks(set.shape.len())) {
            let (most, count) = difference(pixels, &files[*path][which]);
            // In JPEGs the decoders may differ by 1 in Cb and Cr, which is up to 1.8 in blue and red; gray has none.
            let in_colour = channels == 3 && files[*path][0].starts_with(b"\xFF\xD8");
            if most > if in_colour { 2 } else { 1 } {
                failures.push(format!("{path} with {channels} channels: {most}, {count} values"));
            }
            let one = read_cropped(&folder.path().join("train").join(path), set.shape, 1.0).unwrap();
            assert_eq!(one.pixels, pixels, "{path}: predict reads the picture in another way than training");
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Whatever the coding of the JPEG. A cut between two scans is no fault: such a picture only lacks details.
#[test]
fn a_jpeg_that_is_cut_anywhere_in_a_scan_is_damaged() {
    let shape = Shape::new(HEIGHT, WIDTH, 3);
    let mut cuts = 0;
    for (path, [bytes, ..]) in reference().files {
        if !bytes.starts_with(b"\xFF\xD8") {
            continue;
        }
        let end = bytes.windows(2).rposition(|pair| pair == b"\xFF\xD9").unwrap();
        let first_scan = bytes.windows(2).position(|pair| pair == b"\xFF\xDA").unwrap();
        for length in first_scan + 2..end - 2 {
            let is_marker = bytes[length] == 0xFF && !matches!(bytes[length + 1], 0 | 0xFF);
            let splits_marker = bytes[length - 1] == 0xFF;
            let cut = [&bytes[..length], b"\xFF\xD9"].concat();
            let decoded = decode_picture(&cut, shape);
            assert!(is_marker || splits_marker || decoded.is_err(), "{path} of {} bytes, cut to {length}", bytes.len());
            cuts += 1;
        }
    }
    assert!(cuts > 1000, "{cuts}");
}

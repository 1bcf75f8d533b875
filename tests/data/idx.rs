//! The IDX reader: which files it reads, which it refuses, and that arbitrary bytes do not make it panic.

use std::io::Write;
use std::path::Path;

use cnn_cuda::data::idx::{self, Array};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::{assert_contains, message};

/// An IDX file of u8 values. The sizes in its header need not match the values.
pub fn idx_file(sizes: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x08, sizes.len() as u8];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Three images of 2×2.
fn images() -> Vec<u8> {
    idx_file(&[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255])
}

fn images_array() -> Array {
    Array { sizes: vec![3, 2, 2], bytes: vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255] }
}

/// Reads `bytes` as a file of images.
fn read(bytes: &[u8]) -> anyhow::Result<Array> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images");
    std::fs::write(&path, bytes).unwrap();
    idx::read(&path, 3)
}

/// Asserts that `bytes`, plain and gzipped, are refused with a message that names the file and contains `parts`.
#[track_caller]
fn assert_refused(bytes: &[u8], parts: &[&str]) {
    assert_refused_as_given(bytes, parts);
    assert_refused_as_given(&gzip(bytes), parts);
}

/// Like `assert_refused`, but only for the bytes as given.
#[track_caller]
fn assert_refused_as_given(bytes: &[u8], parts: &[&str]) {
    let message = message(read(bytes));
    assert_contains(&message, &["images"]);
    assert_contains(&message, parts);
}

#[test]
fn a_plain_file_is_read() {
    assert_eq!(read(&images()).unwrap(), images_array());
}

#[test]
fn a_gzipped_file_is_read_whatever_its_name() {
    assert_eq!(read(&gzip(&images())).unwrap(), images_array());
}

#[test]
fn gzip_of_several_members_is_read() {
    let bytes = images();
    let (start, end) = bytes.split_at(9);
    assert_eq!(read(&[gzip(start), gzip(end)].concat()).unwrap(), images_array());
}

#[test]
fn a_wrong_magic_number_is_refused() {
    assert_refused(b"PK\x03\x04, and so on", &["not an IDX file"]);
}

#[test]
fn other_element_types_are_refused_by_name() {
    let mut bytes = images();
    bytes[2] = 0x0d;
    assert_refused(&bytes, &["f32 (type 0x0d)", "only u8"]);
    bytes[2] = 0x42;
    assert_refused(&bytes, &["of an unknown type (type 0x42)"]);
}

#[test]
fn a_wrong_number_of_dimensions_is_refused() {
    assert_refused(&idx_file(&[3], &[1, 2, 3]), &["1 dimensions", "3 are expected"]);
    assert_refused(&idx_file(&[3, 1, 1, 1], &[1, 2, 3]), &["4 dimensions", "3 are expected"]);
}

#[test]
fn sizes_whose_product_overflows_are_refused() {
    assert_refused(&idx_file(&[u32::MAX; 3], &[1]), &["more than 4 GiB"]);
}

#[test]
fn a_header_that_claims_more_than_4_gib_is_refused() {
    assert_refused(&idx_file(&[1 << 20, 1 << 10, 5], &[1]), &["more than 4 GiB"]);
}

/// A header may claim 4 GiB, but memory is allocated only as bytes arrive.
#[test]
fn a_large_claimed_size_without_data_is_refused_at_once() {
    assert_refused(&idx_file(&[1 << 20, 1 << 10, 4], &[1]), &["truncated", "4294967296"]);
}

#[test]
fn too_few_bytes_are_refused() {
    let bytes = images();
    assert_refused(&bytes[..bytes.len() - 1], &["truncated", "11 bytes follow", "12"]);
}

#[test]
fn trailing_bytes_are_refused() {
    assert_refused(&[images(), vec![0]].concat(), &["more than the 12 bytes"]);
}

#[test]
fn a_file_that_ends_in_its_header_is_refused() {
    assert_refused(&images()[..7], &["within its header", "7 of 16"]);
    assert_refused(&[], &["within its header", "0 of 16"]);
}

#[test]
fn an_empty_set_is_refused() {
    assert_refused(&idx_file(&[0, 2, 2], &[]), &["empty"]);
    assert_refused(&idx_file(&[3, 0, 2], &[]), &["empty"]);
    assert_refused(&idx_file(&[u32::MAX, u32::MAX, 0], &[]), &["empty"]);
}

#[test]
fn truncated_gzip_is_refused_wherever_it_ends() {
    let bytes = gzip(&images());
    for length in 2..bytes.len() {
        assert_refused_as_given(&bytes[..length], &["truncated", "download it again"]);
    }
}

#[test]
fn corrupt_gzip_is_refused() {
    let mut bytes = gzip(&images());
    let checksum = bytes.len() - 8;
    bytes[checksum] ^= 1;
    assert_refused_as_given(&bytes, &["corrupt"]);
    assert_refused_as_given(&[gzip(&images()), b"trailing bytes".to_vec()].concat(), &["corrupt"]);
}

#[test]
fn a_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().display().to_string();
    assert_contains(&message(idx::read(folder.path(), 3)), &[&name, "it is a folder"]);
}

#[test]
fn a_missing_file_is_named() {
    assert_contains(&message(idx::read(Path::new("absent/images"), 3)), &["absent/images"]);
}

/// A device would give bytes without end.
#[cfg(unix)]
#[test]
fn a_device_is_refused() {
    assert_contains(&message(idx::read(Path::new("/dev/zero"), 3)), &["/dev/zero", "not a regular file"]);
}

/// Asserts that parsing gives an error or a consistent array, the same with and without a known length.
fn check_any(bytes: &[u8], dimensions: u8) -> Result<(), TestCaseError> {
    let known = idx::parse(bytes, Some(bytes.len() as u64), dimensions);
    let unknown = idx::parse(bytes, None, dimensions);
    match (known, unknown) {
        (Ok(known), Ok(unknown)) => {
            prop_assert_eq!(&known, &unknown);
            prop_assert_eq!(known.sizes.len(), usize::from(dimensions));
            prop_assert_eq!(known.sizes.iter().product::<usize>(), known.bytes.len());
            prop_assert!(!known.bytes.is_empty());
        }
        (Err(_), Err(_)) => {}
        (known, unknown) => prop_assert!(false, "{known:?} with a known length, {unknown:?} without"),
    }
    Ok(())
}

/// Replaces some bytes and truncates the result to `length`, if given.
fn mutate(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8)], length: Option<prop::sample::Index>) -> Vec<u8> {
    for (index, value) in changes {
        let index = index.index(bytes.len());
        bytes[index] = *value;
    }
    if let Some(length) = length {
        bytes.truncate(length.index(bytes.len()));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), dimensions in 1_u8..5) {
        check_any(&bytes, dimensions)?;
        check_any(&[b"\x1f\x8b".as_slice(), &bytes].concat(), dimensions)?;
        check_any(&gzip(&bytes), dimensions)?;
    }

    #[test]
    fn arbitrary_sizes_and_values_do_not_panic(
        sizes in prop::collection::vec(prop_oneof![0_u32..5, any::<u32>()], 1..5),
        values in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let bytes = idx_file(&sizes, &values);
        check_any(&bytes, sizes.len() as u8)?;
        check_any(&gzip(&bytes), sizes.len() as u8)?;
    }

    #[test]
    fn damaged_files_do_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length in any::<Option<prop::sample::Index>>(),
    ) {
        check_any(&mutate(images(), &changes, length), 3)?;
        check_any(&mutate(gzip(&images()), &changes, length), 3)?;
        check_any(&gzip(&mutate(images(), &changes, length)), 3)?;
    }

    #[test]
    fn written_files_are_read_back(count in 1_u32..5, height in 1_u32..6, width in 1_u32..6, first: u8) {
        let values: Vec<u8> = (0..count * height * width).map(|i| first.wrapping_add(i as u8)).collect();
        let bytes = idx_file(&[count, height, width], &values);
        let expected = Array { sizes: vec![count as usize, height as usize, width as usize], bytes: values };
        prop_assert_eq!(&idx::parse(gzip(&bytes).as_slice(), None, 3).unwrap(), &expected);
        prop_assert_eq!(&idx::parse(bytes.as_slice(), None, 3).unwrap(), &expected);
    }
}

//! The binary version of CIFAR: reading it from folders and archives, and errors that name the damaged file.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use cnn_cuda::data::{self, cifar};
use cnn_cuda::shape::Shape;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::{assert_contains, message, offline};

const RECORD: u64 = 3073;
const BATCHES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

/// A record: labels, then red, green and blue planes whose values count up from 0, 50 and 100.
fn record(labels: &[u8]) -> Vec<u8> {
    let planes =
        [0_u8, 50, 100].map(|first| (0..1024).map(|pixel| first.wrapping_add(pixel as u8)).collect::<Vec<_>>());
    [labels, &planes.concat()].concat()
}

/// Writes all of CIFAR-10's files. Records are black with label 0, except that the first record of each file has
/// colours and the file's number as its label.
fn write_cifar10(place: &Path) {
    fs::create_dir_all(place).unwrap();
    for (number, name) in BATCHES.iter().enumerate() {
        fs::write(place.join(name), record(&[number as u8])).unwrap();
        File::options().write(true).open(place.join(name)).unwrap().set_len(10_000 * RECORD).unwrap();
    }
    let names: Vec<String> = (0..10).map(|class| format!("class {class}")).collect();
    fs::write(place.join("batches.meta.txt"), names.join("\n") + "\n\n").unwrap();
}

fn load(name: &str, folder: &Path) -> anyhow::Result<data::Dataset> {
    data::load(name, &offline(folder))
}

/// Packs the files in `place` as `cifar-10-binary.tar.gz`.
fn pack(place: &Path, archive: &Path) {
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    let encoder = GzEncoder::new(File::create(archive).unwrap(), Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    builder.sparse(false);
    builder.append_dir_all("cifar-10-batches-bin", place).unwrap();
    builder.into_inner().unwrap().finish().unwrap();
}

#[track_caller]
fn assert_is_cifar10(folder: &Path) {
    let set = load("cifar10", folder).unwrap();
    assert_eq!((set.name.as_str(), set.shape), ("cifar10", Shape::new(32, 32, 3)));
    assert_eq!((set.train.count(), set.test.count()), (50_000, 10_000));
    assert_eq!((set.classes.len(), set.classes[9].as_str()), (10, "class 9"));
    assert_eq!(set.mean, [0.4914, 0.4822, 0.4465]);
    for number in 0..5 {
        let first = number * 10_000;
        assert_eq!(set.train.labels[first..first + 2], [number as u32, 0]);
        // The planes are interleaved into pixels of three channels.
        assert_eq!(set.train.images[first * 3072..][..6], [0, 50, 100, 1, 51, 101]);
        assert_eq!(set.train.images[first * 3072 + 3072..][..3], [0, 0, 0]);
    }
    assert_eq!(set.test.labels[..2], [5, 0]);
}

#[test]
fn cifar10_is_read_from_folders_and_archives() {
    let source = tempfile::tempdir().unwrap();
    let unpacked = source.path().join("cifar10/cifar-10-batches-bin");
    write_cifar10(&unpacked);
    assert_is_cifar10(source.path());
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("cifar10/cifar-10-binary.tar.gz");
    pack(&unpacked, &archive);
    assert_is_cifar10(folder.path());

    // Unpacked files are not downloaded again; an archive with a wrong checksum is refused.
    let download = data::fetch::Download { mirrors: Some(vec![]), ..Default::default() };
    data::fetch::fetch_from(&download, "cifar10", source.path()).unwrap();
    assert_contains(
        &message(data::fetch::fetch_from(&download, "cifar10", folder.path())),
        &["cifar-10-binary.tar.gz"],
    );

    let whole = fs::read(&archive).unwrap();
    for length in [whole.len() / 2, whole.len() - 5] {
        fs::write(&archive, &whole[..length]).unwrap();
        assert_contains(&message(load("cifar10", folder.path())), &["cifar-10-binary.tar.gz", "cut off"]);
    }
    fs::write(&archive, b"no archive at all").unwrap();
    assert_contains(&message(load("cifar10", folder.path())), &["cifar-10-binary.tar.gz", "not a tar archive"]);
    fs::remove_file(unpacked.join(BATCHES[2])).unwrap();
    pack(&unpacked, &archive);
    let parts = ["cifar-10-binary.tar.gz lacks data_batch_3.bin", "binary version of CIFAR-10"];
    assert_contains(&message(load("cifar10", folder.path())), &parts);
    // CIFAR-10's Python version under the name of the binary one.
    fs::remove_dir_all(&unpacked).unwrap();
    fs::create_dir_all(&unpacked).unwrap();
    fs::write(unpacked.join("data_batch_1"), b"pickled").unwrap();
    pack(&unpacked, &archive);
    assert_contains(&message(load("cifar10", folder.path())), &["lacks data_batch_1.bin, data_batch_2.bin"]);
}

#[test]
fn a_sparse_file_in_an_archive_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(File::create(folder.path().join("cifar-10-binary.tar.gz")).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(4);
    builder.append_data(&mut header, "cifar-10-batches-bin/test_batch.bin", &b"data"[..]).unwrap();
    builder.finish().unwrap();
    let words = ["cifar-10-binary.tar.gz", "test_batch.bin is stored as a sparse file"];
    assert_contains(&message(load("cifar10", folder.path())), &words);
}

#[test]
fn errors_name_the_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("cifar-10-batches-bin");
    write_cifar10(&place);
    let path = place.join(BATCHES[3]);
    let assert_refused = |parts: &[&str]| {
        let message = message(load("cifar10", folder.path()));
        assert_contains(&message, &[&path.display().to_string()]);
        assert_contains(&message, parts);
    };
    let resize = |length| File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
    resize(9_999 * RECORD);
    assert_refused(&["truncated", "10000 records"]);
    // A file of 1 TiB must be refused before anything is read or allocated.
    resize(1 << 40);
    assert_refused(&["1099511627776 bytes are not 10000 records"]);
    resize(0);
    assert_refused(&["truncated: 0 bytes"]);
    fs::write(&path, record(&[10])).unwrap();
    resize(10_000 * RECORD);
    assert_refused(&["record 0", "label 10", "0 to 9"]);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_refused(&["not a regular file"]);
    fs::remove_dir(&path).unwrap();
    assert_contains(&message(load("cifar10", folder.path())), &["lacks data_batch_4.bin", "Unpack"]);
}

#[test]
fn an_invalid_list_of_class_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("cifar-10-batches-bin");
    write_cifar10(&place);
    let names = place.join("batches.meta.txt");
    for (bytes, words) in
        [(b"one\ntwo\n".to_vec(), "2 classes"), (vec![0xff; 9], "not a list"), (vec![b'a'; 70_000], "KiB")]
    {
        fs::write(&names, bytes).unwrap();
        assert_contains(&message(load("cifar10", folder.path())), &["batches.meta.txt", words]);
    }
    fs::remove_file(&names).unwrap();
    assert_contains(&message(load("cifar10", folder.path())), &["lacks batches.meta.txt"]);
}

#[test]
fn cifar100_uses_the_fine_labels() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("cifar100/cifar-100-binary");
    fs::create_dir_all(&place).unwrap();
    for (name, records) in [("train.bin", 50_000), ("test.bin", 10_000)] {
        fs::write(place.join(name), record(&[250, 99])).unwrap();
        File::options().write(true).open(place.join(name)).unwrap().set_len(records * (RECORD + 1)).unwrap();
    }
    let names: Vec<String> = (0..100).map(|class| format!("fine {class}")).collect();
    fs::write(place.join("fine_label_names.txt"), names.join("\n")).unwrap();
    let set = load("cifar100", folder.path()).unwrap();
    assert_eq!((set.classes.len(), set.shape), (100, Shape::new(32, 32, 3)));
    assert_eq!((set.train.labels[..2].to_vec(), set.test.labels[0]), (vec![99, 0], 99));
    assert_eq!((set.train.count(), set.test.count()), (50_000, 10_000));
    assert_eq!(set.train.images[..6], [0, 50, 100, 1, 51, 101]);
}

#[test]
fn the_error_for_missing_files_says_what_to_put_where() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("cifar100").display().to_string();
    let message = message(load("cifar100", folder.path()));
    assert_contains(
        &message,
        &["no CIFAR-100", &place, "cifar-100-binary.tar.gz", "fetch cifar100", "--dataset digits"],
    );
}

proptest! {
    /// Arbitrary bytes give the requested number of records or an error, never a panic.
    #[test]
    fn arbitrary_bytes_do_not_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3 * 3075),
        records in 0_usize..4,
        label_bytes in 1_usize..3,
    ) {
        let enough = bytes.len() >= records * (label_bytes + 3072);
        match cifar::read_records(Cursor::new(&bytes), records, label_bytes, 128) {
            Ok(split) => {
                prop_assert!(enough);
                prop_assert_eq!((split.count(), split.images.len()), (records, records * 3072));
                prop_assert!(split.labels.iter().all(|&label| label < 128));
            }
            Err(error) => {
                let message = format!("{error:#}");
                prop_assert!(message.contains("has label") || (!enough && message.contains("truncated")), "{}", message);
            }
        }
    }
}

#[test]
fn the_python_version_and_a_folder_of_the_set_are_named() {
    for place in ["cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar-10-python.tar.gz"] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(place)).unwrap();
        let words =
            [place, "is the Python version of CIFAR-10, but the binary version is read", "cnn-cuda fetch cifar10"];
        assert_contains(&message(load("cifar10", folder.path())), &words);
        // Nothing is downloaded in its place.
        let download = data::LoadOptions { download: true, ..offline(folder.path()) };
        let refused = message(data::load("cifar10", &download));
        assert_contains(&refused, &words);
        assert!(!refused.contains("cannot download"), "{refused}");
        let path = folder.path().join(place);
        let advice = format!("--dataset cifar10 --data {}", path.parent().unwrap().display());
        assert_contains(
            &message(load(path.to_str().unwrap(), Path::new("unused"))),
            &[&words[..], &[&advice]].concat(),
        );
    }
    let folder = tempfile::tempdir().unwrap();
    write_cifar10(&folder.path().join("cifar10/cifar-10-batches-bin"));
    let path = folder.path().join("cifar10");
    let words = ["holds the files of cifar10, which are not pictures; use --dataset cifar10 --data"];
    assert_contains(&message(load(path.to_str().unwrap(), Path::new("unused"))), &words);
}

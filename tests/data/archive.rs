//! Tar archives of pictures: the same set as the folder with every compression, and safety against malicious archives.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use lzma_rust2::{XzOptions, XzWriter};
use proptest::prelude::*;

use super::folder::{assert_is_small_set, load, write_small_set};
use super::idx::gzip;
use super::{assert_contains, message};

/// Packs the folder as a tar archive with all members below `root/`, in unsorted order.
pub fn tar(folder: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for part in ["val", "train"] {
        builder.append_dir_all(format!("root/{part}"), folder.join(part)).unwrap();
    }
    builder.into_inner().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_folder_and_its_archives_load_as_the_same_set() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    assert_is_small_set(folder.path());
    let bytes = tar(folder.path());
    let place = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.tar", bytes.clone()), ("b.tar.gz", gzip(&bytes)), ("c.tar.xz", xz(&bytes))] {
        let path = place.path().join(name);
        fs::write(&path, &bytes).unwrap();
        assert_is_small_set(&path);
        assert_eq!(load(&path).unwrap().fingerprint(), load(folder.path()).unwrap().fingerprint());
        // An archive truncated at any length is refused, and the error names it.
        for length in [0, 5, bytes.len() / 3, 2 * bytes.len() / 3, bytes.len() - bytes.len() / 8] {
            fs::write(&path, &bytes[..length]).unwrap();
            assert_contains(&message(load(&path)), &[name]);
        }
    }
}

/// An archive must not be able to refer to files outside itself.
#[test]
fn links_and_paths_outside_an_archive_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    let picture = fs::read(folder.path().join("train/cat/z.png")).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let add = |builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        // Written directly, because the crate refuses such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_entry_type(kind);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    };
    for name in ["a/1.png", "./a/2.png", "b/1.png", "b//2.png", "a/._3.png", "../a/4.png", "/a/5.png", "a/../a/6.png"] {
        add(&mut builder, name, tar::EntryType::Regular, &picture);
    }
    add(&mut builder, "a/7.png", tar::EntryType::Symlink, &[]);
    add(&mut builder, "a/8.png", tar::EntryType::Link, &[]);
    add(&mut builder, "a/9.png", tar::EntryType::Fifo, &[]);
    // A name too long for the header's field.
    builder
        .append_path_with_name(folder.path().join("train/cat/z.png"), format!("b/{}.png", "long".repeat(50)))
        .unwrap();
    let path = folder.path().join("odd.tar");
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let set = load(&path).unwrap();
    assert_eq!((set.train.count() + set.test.count(), set.classes.len()), (5, 2));
}

#[test]
fn a_file_that_is_not_a_tar_archive_is_refused_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |content: &[u8]| {
        let path = folder.path().join("set.tar");
        fs::write(&path, content).unwrap();
        message(load(&path))
    };
    let text = b"secret words\n".repeat(100);
    for content in [&b"PK\x03\x04 and so on"[..], &[&b"PK\x03\x04"[..], &text].concat(), b"PK\x05\x06"] {
        assert_contains(&refusal(content), &["set.tar", "zip archives are not supported; unpack it"]);
    }
    for content in [&text[..], &text[..300], &text[..20], &gzip(&text), &xz(&text)] {
        let message = refusal(content);
        assert_contains(&message, &["set.tar: this is not a tar archive"]);
        assert!(!message.contains("secret") && !message.contains("download"), "{message}");
    }
    assert_contains(&refusal(b""), &["set.tar", "it is empty"]);
    assert_contains(&refusal(&[0; 1024]), &["set.tar", "it is empty"]);
    // Archives older than POSIX have no magic.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_old();
    header.set_path("notes.txt").unwrap();
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, std::io::empty()).unwrap();
    assert_contains(&refusal(&builder.into_inner().unwrap()), &["holds no PNG or JPEG pictures"]);
}

#[test]
fn a_member_larger_than_its_archive_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_small_set(folder.path());
    let mut bytes = tar(folder.path());
    bytes.truncate(bytes.len() - 1024);
    let mut header = tar::Header::new_gnu();
    header.set_path("root/train/cat/huge.png").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    let path = folder.path().join("huge.tar");
    fs::write(&path, bytes).unwrap();
    assert_contains(&message(load(&path)), &["huge.tar", "cut off"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Loading a damaged archive succeeds or gives an error; it never panics or hangs.
    #[test]
    fn damaged_archives_do_not_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        kind in 0..3,
    ) {
        let folder = tempfile::tempdir().unwrap();
        write_small_set(folder.path());
        let mut bytes = tar(folder.path());
        bytes = match kind { 0 => bytes, 1 => gzip(&bytes), _ => xz(&bytes) };
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let path = folder.path().join("damaged.tar");
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        if let Err(error) = load(&path) {
            let message = format!("{error:#}");
            prop_assert!(message.contains("damaged.tar"), "{}", message);
        }
    }
}

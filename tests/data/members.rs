//! Members of archives that are no plain files: sparse and special files, hidden ones, sizes in extended headers.

use std::io::Write;
use std::path::Path;

use super::archive::{add, picture, save};
use super::folder::{load, write_small_set};
use super::{assert_contains, message};

#[test]
fn sparse_members_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, "set/a/1.png", tar::EntryType::GNUSparse, &picture(1));
    assert_contains(&message(load(&save(place.path(), builder))), &["made.tar/a/1.png is stored as a sparse file"]);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
    add(&mut builder, "set/a/1.png", tar::EntryType::Regular, &picture(1));
    assert_contains(&message(load(&save(place.path(), builder))), &["made.tar/a/1.png is stored as a sparse file"]);
}

/// Writes two classes of two pictures each.
fn two_classes() -> tar::Builder<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (number, name) in ["set/a/1.png", "set/a/2.png", "set/b/1.png", "set/b/2.png"].into_iter().enumerate() {
        add(&mut builder, name, tar::EntryType::Regular, &picture(number as u8));
    }
    builder
}

/// The number of pictures in the archive.
#[track_caller]
fn count(place: &Path, builder: tar::Builder<Vec<u8>>) -> usize {
    let set = load(&save(place, builder)).unwrap();
    assert_eq!(set.classes, ["a", "b"]);
    set.train.count() + set.test.count()
}

/// A folder with such files is used, too.
#[test]
fn what_is_hidden_or_no_picture_does_not_matter() {
    let place = tempfile::tempdir().unwrap();
    let mut builder = two_classes();
    add(&mut builder, &format!("set/.git/{}0.png", "x/".repeat(40)), tar::EntryType::Regular, b"nothing");
    add(&mut builder, "set/pipe", tar::EntryType::Fifo, b"");
    add(&mut builder, "set/a/.1.png", tar::EntryType::Fifo, b"");
    add(&mut builder, "set/notes.bin", tar::EntryType::GNUSparse, b"text");
    add(&mut builder, "set/@eaDir/1.png", tar::EntryType::GNUSparse, b"text");
    builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.name", b"set/a/x.bin")]).unwrap();
    add(&mut builder, "set/GNUSparseFile.1/x.bin", tar::EntryType::Regular, b"text");
    // The map of a sparse file with many pieces continues in further blocks.
    let mut header = tar::Header::new_gnu();
    header.set_path("set/pieces.bin").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(700);
    header.as_gnu_mut().unwrap().isextended = [1];
    header.set_cksum();
    let mut block = [1; 512];
    let mut blocks = [*header.as_bytes(), block].concat();
    block[504] = 0;
    blocks.extend_from_slice(&block);
    blocks.extend_from_slice(&[7; 1024]);
    builder.get_mut().write_all(&blocks).unwrap();
    add(&mut builder, "set/b/3.png", tar::EntryType::Regular, &picture(9));
    assert_eq!(count(place.path(), builder), 5);
    // Without a top-level folder.
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["a/1.png", "a/2.png", "b/1.png", "b/2.png"] {
        add(&mut builder, name, tar::EntryType::Regular, &picture(1));
    }
    add(&mut builder, &format!(".git/{}0.png", "x/".repeat(40)), tar::EntryType::Regular, b"nothing");
    assert_eq!(count(place.path(), builder), 4);
}

#[cfg(unix)]
#[test]
fn a_special_file_with_the_name_of_a_picture_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let mut builder = two_classes();
    add(&mut builder, "set/a/f.png", tar::EntryType::Fifo, b"");
    let words = ["1 picture is corrupt or unreadable", "a/f.png"];
    assert_contains(&message(load(&save(place.path(), builder))), &words);
    write_small_set(&place.path().join("set"));
    let socket = place.path().join("set/train/cat/f.png");
    let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    assert_contains(&message(load(&place.path().join("set"))), &[words[0], "cat/f.png"]);
}

/// Only the record of an extended header can say that a member has 8 GiB or more; the header then says 0.
#[test]
fn the_size_in_an_extended_header_counts() {
    let place = tempfile::tempdir().unwrap();
    let mut builder = two_classes();
    let content = picture(9);
    for (name, stated) in [
        ("set/b/3.png", content.len()),
        ("set/b/4.png", 0),
        ("set/b/video.mp4", 0),
        ("../video.mp4", 0),
        ("set/b/5.png", 1),
    ] {
        builder.append_pax_extensions([("size", content.len().to_string().as_bytes())]).unwrap();
        let mut header = tar::Header::new_ustar();
        // Written directly, because the crate refuses the path that leads out.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(stated as u64);
        header.set_cksum();
        let padding = content.len().next_multiple_of(512) - content.len();
        let blocks = [header.as_bytes(), &content[..], &vec![0; padding]].concat();
        builder.get_mut().write_all(&blocks).unwrap();
    }
    add(&mut builder, "set/b/6.png", tar::EntryType::Regular, &picture(6));
    assert_eq!(count(place.path(), builder), 8);
    for (size, words) in [("18446744073709551615", "cut off"), ("1e3", "the size of a member")] {
        let mut builder = two_classes();
        builder.append_pax_extensions([("size", size.as_bytes())]).unwrap();
        add(&mut builder, "set/video.mp4", tar::EntryType::Regular, b"short");
        assert_contains(&message(load(&save(place.path(), builder))), &["made.tar", words]);
    }
}

#[test]
fn an_archive_with_absolute_names_is_refused_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["/set/a/0.png", "/set/b/0.png"] {
        let (mut header, content) = (tar::Header::new_gnu(), picture(1));
        // Written directly, because the crate refuses such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, &content[..]).unwrap();
    }
    let words = "2 members whose path lead out of the archive, such as /set/a/0.png; pack them with relative paths";
    assert_contains(&message(load(&save(place.path(), builder))), &["made.tar holds no PNG or JPEG pictures", words]);
}

//! Tar archives of pictures: the same set as the folder with every compression, and safety against malicious archives.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use lzma_rust2::{XzOptions, XzWriter};
use proptest::prelude::*;

use super::folder::{assert_is_small_set, load, load_with, write_gray, write_small_set};
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

/// Packs everything in the folder below `root/`.
pub fn pack(folder: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all("root", folder).unwrap();
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

/// An archive must not be able to refer to files outside itself: such links are broken, such members are left out.
#[test]
fn links_and_paths_outside_an_archive_are_not_followed() {
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
    let words =
        ["3 pictures are corrupt or unreadable", "a/7.png: it is a link to /etc/passwd, outside the archive", "8.png"];
    assert_contains(&message(load(&path)), &words);
    let set = load_with(&path, |options| options.pictures.max_bad = 3).unwrap();
    assert_eq!((set.train.count() + set.test.count(), set.classes.len()), (5, 2));
}

/// Adds a member with a content, or a link with its target.
pub fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    if kind.is_symlink() || kind.is_hard_link() {
        header.set_size(0);
        builder.append_link(&mut header, name, std::str::from_utf8(content).unwrap()).unwrap();
    } else {
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    }
}

pub fn save(folder: &Path, builder: tar::Builder<Vec<u8>>) -> PathBuf {
    let path = folder.join("made.tar");
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    path
}

/// The bytes of a picture of one gray level.
pub fn picture(level: u8) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    write_gray(&folder.path().join("one.png"), level);
    fs::read(folder.path().join("one.png")).unwrap()
}

/// Links to pictures and folders, through other links, and hidden folders: everything is as in the folder.
#[cfg(unix)]
#[test]
fn links_within_an_archive_are_followed_as_in_the_folder() {
    use std::os::unix::fs::symlink;
    use tar::EntryType::{Link, Regular, Symlink};

    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("set");
    let mut builder = tar::Builder::new(Vec::new());
    for (name, level) in [("a/1.png", 1), ("a/deep/2.png", 2), ("b/3.png", 3), (".store/4.png", 4), ("@eaDir/5.png", 5)]
    {
        write_gray(&root.join(name), level);
        add(&mut builder, &format!("set/{name}"), Regular, &picture(level));
    }
    let links = [("b/4.png", "../.store/4.png"), ("b/again", "../a/deep"), ("c", "./b/again"), ("b/6.png", "3.png")];
    for (name, target) in links {
        symlink(target, root.join(name)).unwrap();
        add(&mut builder, &format!("set/{name}"), Symlink, target.as_bytes());
    }
    for (name, target) in [("b/7.png", "a/1.png"), ("b/8.png", ".store/4.png")] {
        fs::hard_link(root.join(target), root.join(name)).unwrap();
        add(&mut builder, &format!("set/{name}"), Link, format!("set/{target}").as_bytes());
    }
    let (folder, archive) = (load(&root).unwrap(), load(&save(place.path(), builder)).unwrap());
    assert_eq!(folder.classes, ["a", "b", "c"]);
    assert_eq!(folder.train.count() + folder.test.count(), 9);
    assert_eq!((folder.fingerprint(), &folder.test.images), (archive.fingerprint(), &archive.test.images));
}

#[test]
fn links_in_an_archive_that_lead_nowhere_or_in_circles_are_errors() {
    use tar::EntryType::{Link, Regular, Symlink};
    let place = tempfile::tempdir().unwrap();
    let refusal = |links: &[(&str, tar::EntryType, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["set/a/1.png", "set/b/1.png"] {
            add(&mut builder, name, Regular, &picture(1));
        }
        links.iter().for_each(|&(name, kind, target)| add(&mut builder, name, kind, target.as_bytes()));
        message(load(&save(place.path(), builder)))
    };
    let outside = refusal(&[("set/a/2.png", Symlink, "../../../a/1.png")]);
    assert_contains(&outside, &["made.tar", "a/2.png: it is a link to ../../../a/1.png, outside the archive"]);
    assert_contains(&refusal(&[("set/a/2.png", Symlink, "gone.png")]), &["gone.png, which is not in the archive"]);
    assert_contains(
        &refusal(&[("set/a/2.png", Link, "set/gone.png")]),
        &["set/gone.png, which is not an earlier file"],
    );
    assert_contains(&refusal(&[("set/c", Symlink, "../gone")]), &["c leads nowhere (it is a link to ../gone"]);
    assert_contains(&refusal(&[("set/b/loop", Symlink, "..")]), &["made.tar", "b/loop", "leads back into itself"]);
    let circle = [("set/a/2.png", Symlink, "3.png"), ("set/a/3.png", Symlink, "2.png")];
    assert_contains(&refusal(&circle), &["2 pictures", "more than 40 links"]);
    assert_contains(&refusal(&[("set/a/1.png/2.png", Regular, "x")]), &["made.tar", "set/a/1.png is a folder and"]);
}

/// Archives older than POSIX have no type for folders, whose names end with a slash.
#[test]
fn folders_of_old_archives_are_read() {
    let place = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in
        [("set/a/", vec![]), ("set/a/1.png", picture(1)), ("set/b/", vec![]), ("set/b/1.png", picture(2))]
    {
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, &content[..]).unwrap();
    }
    let path = save(place.path(), builder);
    // Every class has one picture, so none is left for testing.
    assert_contains(&message(load(&path)), &["made.tar cannot be used: in the test split"]);
}

/// The archive has one level more, its top-level folder.
#[test]
fn folders_and_archives_may_be_equally_deep() {
    for depth in 29..34 {
        let folder = tempfile::tempdir().unwrap();
        write_small_set(folder.path());
        write_gray(&folder.path().join("train/cat").join("deep/".repeat(depth - 2)).join("a.png"), 1);
        let path = folder.path().join("deep.tar");
        fs::write(&path, tar(folder.path())).unwrap();
        let (of_folder, of_archive) = (load(folder.path()), load(&path));
        assert_eq!(of_folder.is_ok(), depth < 32, "{depth}");
        assert_eq!(of_archive.is_ok(), depth < 32, "{depth}");
        if let (Err(of_folder), Err(of_archive)) = (of_folder, of_archive) {
            assert_contains(&format!("{of_folder:#}"), &["more than 32 folders deep"]);
            assert_contains(&format!("{of_archive:#}"), &["deep.tar", "more than 32 folders deep"]);
        }
    }
}

/// Their levels took minutes to compare.
#[test]
fn long_and_deep_paths_are_refused_before_they_are_split() {
    let place = tempfile::tempdir().unwrap();
    for (levels, words) in [(32_000, "is longer than 4096 bytes"), (2000, "more than 32 folders deep")] {
        let mut builder = tar::Builder::new(Vec::new());
        for number in 0..200 {
            let name = format!("{}{number}.png", "d/".repeat(levels));
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::GNULongName);
            header.set_size(name.len() as u64);
            header.set_cksum();
            builder.append(&header, name.as_bytes()).unwrap();
            add(&mut builder, "x", tar::EntryType::Regular, b"");
        }
        assert_contains(&message(load(&save(place.path(), builder))), &["made.tar", words]);
    }
}

#[test]
fn a_small_archive_that_unpacks_to_gigabytes_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("set/a/junk.bin").unwrap();
    header.set_size(8 << 30);
    header.set_cksum();
    // A gzip file may consist of several, which are unpacked one after the other.
    let (start, zeros) = (gzip(header.as_bytes()), gzip(&vec![0; 1 << 20]));
    let path = place.path().join("bomb.tar.gz");
    fs::write(&path, [&start[..], &zeros.repeat(8 << 10)].concat()).unwrap();
    assert_contains(
        &message(load(&path)),
        &["bomb.tar.gz: it unpacks to more than 1.6 GB, much more than pictures do"],
    );
}

/// Every class was searched for in the list of all classes.
#[test]
fn too_many_classes_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, "0/1.png", tar::EntryType::Regular, &picture(1));
    for class in 1..=100_000 {
        add(&mut builder, &format!("{class}/1.png"), tar::EntryType::Link, b"0/1.png");
    }
    assert_contains(&message(load(&save(place.path(), builder))), &["made.tar", "100001 classes are too many"]);
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

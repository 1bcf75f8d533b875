//! What the names of folders mean: splits, classes that vanish, folders to skip, and names in strange spellings.

use std::fs;
use std::path::Path;

use super::archive::pack;
use super::folder::{load, load_with, write_gray};
use super::{assert_contains, message};

/// Writes four pictures of every class into the folders `splits`, and returns the number of pictures in each.
fn write_set(root: &Path, splits: &[&str], classes: &[&str]) {
    for (number, split) in splits.iter().enumerate() {
        for (label, class) in classes.iter().enumerate() {
            for picture in 0..4 {
                let level = (number * 100 + label * 10 + picture) as u8;
                write_gray(&root.join(split).join(class).join(format!("{picture}.png")), level);
            }
        }
    }
}

/// Loads the folder and its archive, which must be the same set or fail with the same message.
#[track_caller]
fn load_both(root: &Path) -> anyhow::Result<cnn_cuda::data::Dataset> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("set.tar");
    fs::write(&path, pack(root)).unwrap();
    let (folder, archive) = (load(root), load(&path));
    match (&folder, &archive) {
        (Ok(folder), Ok(archive)) => {
            assert_eq!((&folder.classes, folder.fingerprint()), (&archive.classes, archive.fingerprint()));
            assert_eq!((&folder.test.labels, &folder.test.images), (&archive.test.labels, &archive.test.images));
        }
        (Err(folder), Err(archive)) => {
            let without_path = |error: &anyhow::Error, path: &Path| {
                format!("{error:#}").replace(&*path.to_string_lossy(), "").replace("cannot read : ", "")
            };
            assert_eq!(without_path(folder, root), without_path(archive, &path));
        }
        _ => panic!("the folder gives {folder:?}, its archive {archive:?}"),
    }
    folder
}

#[test]
fn splits_are_recognised_by_their_usual_names() {
    for (train, test) in [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VALID"),
        ("train", "Test"),
        ("training", "testing"),
        ("training_set", "test_set"),
        ("Training-Set", "validation set"),
        ("trainset", "valset"),
        ("train", "validation"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), &[train, test], &["c", "d", "o"]);
        let set = load_both(folder.path()).unwrap();
        assert_eq!(set.classes, ["c", "d", "o"], "{train}, {test}");
        assert_eq!((set.train.count(), set.test.count()), (12, 12), "{train}, {test}");
        assert_eq!((set.train.images[0], set.test.images[0]), (0, 100));
    }
}

#[test]
fn folders_that_look_like_splits_under_other_names_are_an_error() {
    for (first, second) in [("alpha", "beta"), ("train", "holdout"), ("pics", "test")] {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), &[first, second], &["c", "d", "o"]);
        let words = ["hold folders of the same name (c, d, o)", first, second, "name them train and test"];
        assert_contains(&message(load_both(folder.path())), &words);
    }
    for (first, second) in [("Train", "train"), ("train", "training"), ("test", "Test")] {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), &["train", first, second], &["c", "d"]);
        assert_contains(&message(load(folder.path())), &["could be the same split", first, second]);
    }
}

/// With a picture beside the class folders, with a single class in both, and with the common classes after many others.
#[test]
fn a_class_folder_in_common_is_enough_to_look_like_splits() {
    let refusal = |write: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        message(load_both(folder.path()))
    };
    let stray = refusal(&|root| {
        write_set(root, &["trn", "tst"], &["c", "d"]);
        write_gray(&root.join("trn/overview.png"), 1);
        write_gray(&root.join("tst/overview.png"), 2);
    });
    assert_contains(&stray, &["the folders trn and tst hold folders of the same name (c, d)"]);
    let single = refusal(&|root| {
        write_set(root, &["train_x"], &["c", "d"]);
        write_set(root, &["test_x"], &["d", "e"]);
    });
    let words = ["test_x and train_x hold folders of the same name (d)", "if they are classes, move all classes into"];
    assert_contains(&single, &words);
    let many = refusal(&|root| {
        for class in 0..40 {
            write_gray(&root.join(format!("trn/{class:03}/0.png")), class);
            write_gray(&root.join(format!("tst/{:03}/0.png", class + 20)), class);
        }
    });
    assert_contains(&many, &["trn and tst", "(020, 021, 022"]);
    let besides_train = refusal(&|root| {
        write_set(root, &["train"], &["c", "d"]);
        write_set(root, &["holdout"], &["d", "e"]);
    });
    assert_contains(&besides_train, &["holdout and train", "name them train and test; if not, move one of them"]);
}

/// `train` is also a vehicle, and a class may have folders of its own.
#[test]
fn classes_are_not_taken_for_splits() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["."], &["bus", "car", "train"]);
    assert_eq!(load_both(folder.path()).unwrap().classes, ["bus", "car", "train"]);
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["a", "b"], &["images"]);
    write_gray(&folder.path().join("a/1.png"), 1);
    assert_eq!(load_both(folder.path()).unwrap().classes, ["a", "b"]);
    // Now they could be splits. The error says what to do if they are not.
    write_gray(&folder.path().join("b/masks/1.png"), 1);
    let words = "a and b hold folders of the same name (images)";
    assert_contains(&message(load_both(folder.path())), &[words, "move all classes into a new folder train"]);
    fs::create_dir(folder.path().join("train")).unwrap();
    for class in ["a", "b"] {
        fs::rename(folder.path().join(class), folder.path().join("train").join(class)).unwrap();
    }
    assert_eq!(load_both(folder.path()).unwrap().classes, ["a", "b"]);
    // Beside a training set, folders that are skipped may have folders in common.
    write_set(folder.path(), &["boxes", "outlines"], &["x", "y"]);
    assert_eq!(load_both(folder.path()).unwrap().classes, ["a", "b"]);
}

#[test]
fn hidden_and_helper_folders_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["train", "test"], &["a", "b"]);
    let expected = load(folder.path()).unwrap();
    let dotted = [".ipynb_checkpoints", ".git"];
    let helpers = ["@eaDir", "@EADIR", "__MACOSX", "lost+found", "$RECYCLE.BIN", "$Recycle.Bin", "#snapshot", "@tmp"];
    for name in dotted.into_iter().chain(helpers) {
        for place in ["", "train", "train/a", "test"] {
            write_gray(&folder.path().join(place).join(name).join("0.png"), 200);
            write_gray(&folder.path().join(place).join(name).join("deep/0.png"), 200);
        }
    }
    fs::write(folder.path().join("train/a/._0.png"), b"resource fork").unwrap();
    let set = load_both(folder.path()).unwrap();
    assert_eq!((set.classes, set.train.images), (expected.classes, expected.train.images));
    assert_eq!(set.test.images, expected.test.images);
}

#[test]
fn a_class_that_vanishes_is_an_error_that_names_it() {
    let classes = ["a", "b", "c"];
    for splits in [&["train", "test"][..], &["."]] {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), splits, &classes);
        let class = |split: &str| folder.path().join(split).join("b");
        for split in splits {
            for number in 0..4 {
                let path = class(split).join(format!("{number}.png"));
                fs::rename(&path, path.with_extension("webp")).unwrap();
            }
        }
        let name = if splits.len() == 2 { "folders test/b, train/b hold" } else { "folder b holds" };
        let webp = format!("the {name} no PNG or JPEG pictures, but 4 pictures in other formats (.webp)");
        assert_contains(&message(load_both(folder.path())), &[&webp]);
        for split in splits {
            fs::remove_dir_all(class(split)).unwrap();
            fs::create_dir(class(split)).unwrap();
        }
        let empty = format!("the {name} no PNG or JPEG pictures; add some, or remove ");
        assert_contains(&message(load_both(folder.path())), &[&empty]);
        #[cfg(unix)]
        {
            for split in splits {
                fs::remove_dir(class(split)).unwrap();
                std::os::unix::fs::symlink("../gone", class(split)).unwrap();
            }
            assert_contains(&message(load(folder.path())), &["b leads nowhere (No such file", "repair or remove it"]);
        }
        for split in splits {
            let _ = fs::remove_file(class(split));
            let _ = fs::remove_dir(class(split));
        }
        assert_eq!(load_both(folder.path()).unwrap().classes, ["a", "c"]);
    }
}

#[test]
fn a_class_that_vanishes_from_the_test_set_is_an_error_that_names_it() {
    for trained in [&["a", "b"][..], &["a", "b", "c"]] {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), &["train"], trained);
        write_set(folder.path(), &["test"], &["a", "b"]);
        fs::create_dir(folder.path().join("test/c")).unwrap();
        let words = "the folder test/c holds no PNG or JPEG pictures";
        assert_contains(&message(load_both(folder.path())), &[words, "add some, or remove it"]);
        fs::write(folder.path().join("test/c/0.webp"), b"").unwrap();
        assert_contains(&message(load_both(folder.path())), &[words, "but 1 picture in other formats (.webp)"]);
        let evaluated = load_with(folder.path(), |options| {
            options.classes = Some(trained.iter().map(|class| (*class).to_string()).collect());
        });
        assert_contains(&message(evaluated), &[words]);
    }
}

#[test]
fn a_class_next_to_an_empty_one_is_not_stripped_as_a_common_folder() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["a"], &["x", "y"]);
    fs::create_dir(folder.path().join("b")).unwrap();
    assert_contains(&message(load_both(folder.path())), &["the folder b holds no PNG"]);
}

#[test]
fn a_test_folder_without_pictures_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["train"], &["a", "b"]);
    fs::create_dir_all(folder.path().join("test/a")).unwrap();
    assert_contains(&message(load_both(folder.path())), &["the folder test holds no PNG or JPEG pictures"]);
    fs::remove_dir(folder.path().join("test/a")).unwrap();
    write_gray(&folder.path().join("test/z/1.png"), 1);
    assert_contains(&message(load(folder.path())), &["z is not one of the training classes: a, b"]);
}

#[test]
fn a_class_whose_training_pictures_are_all_corrupt_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["train", "test"], &["a", "b"]);
    for number in 0..4 {
        fs::write(folder.path().join(format!("train/b/{number}.png")), b"nothing").unwrap();
    }
    let refused = load_with(folder.path(), |options| options.pictures.max_bad = 4);
    assert_contains(&message(refused), &["all training pictures of class b are corrupt"]);
}

#[test]
fn two_spellings_of_one_name_are_an_error_that_explains_it() {
    let (nfc, nfd) = ("caf\u{e9}", "cafe\u{301}");
    for classes in [&[("train", nfc), ("train", nfd)], &[("train", nfc), ("test", nfd)]] {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), &["train", "test"], &["a", "b"]);
        for (split, class) in classes {
            write_gray(&folder.path().join(split).join(class).join("1.png"), 1);
        }
        let words = ["caf\\u{e9}", "cafe\\u{301}", "two Unicode spellings (NFC and NFD)"];
        assert_contains(&message(load_both(folder.path())), &words);
    }
}

/// Names of files keep their bytes; classes, which are stored as text, are refused.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_told_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["train", "test"], &["a", "b"]);
    let named = |bytes: &[u8]| folder.path().join("train/a").join(OsStr::from_bytes(bytes));
    for (name, level) in [(&b"\xe9.png"[..], 201), (b"\xe8.png", 202)] {
        fs::copy(folder.path().join("train/a/0.png"), named(name)).unwrap();
        write_gray(&folder.path().join("one.png"), level);
        fs::rename(folder.path().join("one.png"), named(name)).unwrap();
    }
    let set = load_both(folder.path()).unwrap();
    assert_eq!(set.train.count(), 10);
    fs::write(named(b"\xe9.png"), b"nothing").unwrap();
    assert_contains(&message(load(folder.path())), &["train/a/\\xE9.png"]);
    fs::remove_file(named(b"\xe9.png")).unwrap();
    let class = folder.path().join("train").join(OsStr::from_bytes(b"\xc3"));
    fs::create_dir(&class).unwrap();
    fs::copy(folder.path().join("train/a/0.png"), class.join("0.png")).unwrap();
    assert_contains(&message(load_both(folder.path())), &["the class folder \\xC3 is not UTF-8; rename it"]);
}

#[test]
fn control_characters_in_names_are_escaped_in_messages() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), &["train", "test"], &["a", "b"]);
    let name = "bell\u{7}delete\u{7f}csi\u{9b}.png";
    fs::write(folder.path().join("train/a").join(name), b"nothing").unwrap();
    let text = message(load_both(folder.path()));
    assert_contains(&text, &["train/a/bell\\u{7}delete\\u{7f}csi\\u{9b}.png"]);
    assert!(!text.contains(char::is_control), "{text:?}");
}

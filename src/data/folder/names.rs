//! What the names of folders and files mean: splits, pictures, and what a system or program keeps for itself.

use crate::files::printable;

/// Endings of the pictures that are read.
const ENDINGS: [&str; 3] = [".png", ".jpg", ".jpeg"];
/// Endings of pictures in formats that are not supported.
const FOREIGN_ENDINGS: [&str; 9] = [".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".ppm"];
/// Folders that systems keep next to a user's, apart from those whose names begin with a dot.
const HELPERS: [&str; 13] = [
    "__MACOSX",                  // what macOS adds to archives
    "Network Trash Folder",      // its waste basket on a server
    "Temporary Items",           // of macOS on a server
    "@eaDir",                    // thumbnails of a Synology NAS
    "@tmp",                      // its temporary files
    "#recycle",                  // its waste basket
    "#snapshot",                 // its snapshots
    "@Recycle",                  // the waste basket of a QNAP NAS
    "@Recently-Snapshot",        // its snapshots
    "~snapshot",                 // those of a NetApp server
    "$RECYCLE.BIN",              // the waste basket of Windows, also in other case
    "System Volume Information", // of Windows
    "lost+found",                // of ext4
];

/// What the pictures in a folder are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    Train,
    Test,
    /// Used as the test set if there is no [`Split::Test`].
    Validation,
}

/// The split that a folder's name stands for, in any case, with or without `set` at its end: `Train`, `testing`,
/// `validation_set`.
pub fn split_of(name: &str) -> Option<Split> {
    let lower = name.to_lowercase();
    let stem = lower.strip_suffix("set").map_or(lower.as_str(), |stem| stem.trim_end_matches(['_', '-', ' ']));
    match stem {
        "train" | "training" => Some(Split::Train),
        "test" | "testing" => Some(Split::Test),
        "val" | "valid" | "validation" => Some(Split::Validation),
        _ => None,
    }
}

/// Whether a folder or file is not part of a data set.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || HELPERS.iter().any(|helper| helper.eq_ignore_ascii_case(name))
}

/// Whether a file's name is that of a picture that can be read.
pub fn is_picture(name: &str) -> bool {
    ending_among(&ENDINGS, name).is_some()
}

/// The ending of a picture's name if its format is not supported.
pub fn foreign_ending(name: &str) -> Option<&'static str> {
    ending_among(&FOREIGN_ENDINGS, name)
}

fn ending_among(endings: &[&'static str], name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    endings.iter().copied().find(|ending| name.ends_with(ending))
}

/// The names for a message: the first ten.
pub fn list_of(names: &[String]) -> String {
    let first: Vec<_> = names.iter().take(10).map(|name| printable(name)).collect();
    first.join(", ") + if names.len() > 10 { ", …" } else { "" }
}

//! Lists the pictures in a folder or archive, in an order that depends only on their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::data::archive::{self, Kind};
use crate::data::counted;

/// The deepest nesting of folders. Deeper ones are a loop or not a data set.
const MAX_DEPTH: usize = 32;
const ENDINGS: [&str; 3] = [".png", ".jpg", ".jpeg"];
/// Endings of pictures in formats that are not supported.
const FOREIGN_ENDINGS: [&str; 7] = [".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".avif"];

/// The location of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    File(PathBuf),
    /// The index of a member of the archive, from 0.
    Member(u64),
}

/// The pictures of a folder or archive.
#[derive(Debug, Default)]
pub struct Listing {
    /// The locations of the pictures, sorted by the components of their paths below the root.
    pub pictures: BTreeMap<Vec<String>, Location>,
    /// The paths of the folders below the root. Those of an archive that it does not list are missing.
    pub folders: BTreeSet<Vec<String>>,
    /// The number of links in an archive, which are not followed.
    pub links: usize,
    /// The number of pictures in other formats, by the endings of their names.
    pub foreign: BTreeMap<&'static str, usize>,
    /// The number of files whose names are not those of pictures.
    pub others: usize,
}

/// Lists a folder or an archive, without unpacking the archive.
pub fn list(path: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    if path.is_dir() {
        // Links in a folder are its owner's choice, so they are followed. A loop is an error.
        list_folder(path, &mut Vec::new(), &mut Vec::new(), &mut listing)?;
    } else {
        let mut number = 0;
        archive::for_each(path, |member, _| {
            match (member.kind, member.parts.last()) {
                (Kind::File, Some(name)) if is_picture(name) => {
                    // Of two members with the same name, the later one counts, as when tar unpacks them.
                    listing.pictures.insert(member.parts.clone(), Location::Member(number));
                }
                (Kind::Link, _) => listing.links += 1,
                (Kind::File, Some(name)) => listing.add_other(name),
                (Kind::File | Kind::Other, _) => listing.others += 1,
                (Kind::Folder, _) => {
                    listing.folders.insert(member.parts.clone());
                }
            }
            number += 1;
            Ok(())
        })?;
    }
    listing.report(path)?;
    Ok(listing)
}

impl Listing {
    /// Counts a file that is not a PNG or JPEG picture.
    fn add_other(&mut self, name: &str) {
        match ending_among(&FOREIGN_ENDINGS, name) {
            Some(ending) => *self.foreign.entry(ending).or_default() += 1,
            None => self.others += 1,
        }
    }

    /// Logs what was skipped, and checks that pictures are left.
    fn report(&self, path: &Path) -> Result<()> {
        let path = path.display();
        let endings = self.foreign.keys().copied().collect::<Vec<_>>().join(", ");
        let foreign = format!("{} in other formats ({endings})", counted(self.foreign.values().sum(), "picture"));
        ensure!(
            !self.pictures.is_empty() || self.foreign.is_empty(),
            "{path} holds no PNG or JPEG pictures, but {foreign}; convert them to PNG or JPEG"
        );
        ensure!(!self.pictures.is_empty(), "{path} holds no PNG or JPEG pictures");
        if !self.foreign.is_empty() {
            tracing::warn!("{path}: skipping {foreign}; convert them to PNG or JPEG");
        }
        let ignored = [(self.links, "link"), (self.others, "other file")];
        for (count, what) in ignored.into_iter().filter(|(count, _)| *count > 0) {
            tracing::info!("{path}: ignored {}", counted(count, what));
        }
        Ok(())
    }
}

fn list_folder(
    folder: &Path,
    parts: &mut Vec<String>,
    ancestors: &mut Vec<PathBuf>,
    listing: &mut Listing,
) -> Result<()> {
    let context = || format!("cannot read the folder {}", folder.display());
    let canonical = folder.canonicalize().with_context(context)?;
    let shown = folder.display();
    ensure!(!ancestors.contains(&canonical), "the folder {shown} leads back into itself; remove the link in its path");
    ensure!(ancestors.len() < MAX_DEPTH, "{shown} is more than {MAX_DEPTH} folders deep; move its pictures up");
    ancestors.push(canonical);
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if name.starts_with('.') {
            continue;
        }
        parts.push(name);
        if path.is_dir() {
            listing.folders.insert(parts.clone());
            list_folder(&path, parts, ancestors, listing)?;
        } else if parts.last().is_some_and(|name| is_picture(name)) {
            listing.pictures.insert(parts.clone(), Location::File(path));
        } else {
            listing.add_other(parts.last().map_or("", String::as_str));
        }
        parts.pop();
    }
    ancestors.pop();
    Ok(())
}

/// Whether the name is that of a picture.
fn is_picture(name: &str) -> bool {
    ending_among(&ENDINGS, name).is_some()
}

/// The ending of a name, in lower case, if it is one of `endings`. Hidden files have none, because some systems add
/// `._name.jpg` to archives.
fn ending_among(endings: &[&'static str], name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    endings.iter().copied().find(|ending| !name.starts_with('.') && name.ends_with(ending))
}

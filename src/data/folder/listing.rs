//! Which pictures a folder or archive holds, in an order that depends on their names alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::data::archive::{self, Kind};

/// Folders within folders; more is a loop or no data set.
const MAX_DEPTH: usize = 32;
const ENDINGS: [&str; 3] = [".png", ".jpg", ".jpeg"];

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    /// The archive's member of that number, from 0.
    Member(u64),
}

/// All pictures by their paths below the root, part by part, in the order of those.
#[derive(Debug, Default)]
pub struct Listing {
    pub pictures: BTreeMap<Vec<String>, Place>,
    /// Links in an archive, which are not followed.
    pub links: usize,
    /// Files that are no pictures by their names.
    pub others: usize,
}

/// Lists a folder, or an archive without unpacking it.
pub fn list(path: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    if path.is_dir() {
        // Links in a folder are its owner's choice and are followed, but not in circles.
        list_folder(path, &mut Vec::new(), &mut Vec::new(), &mut listing)?;
    } else {
        let mut number = 0;
        archive::for_each(path, |member, _| {
            match (member.kind, member.parts.last()) {
                (Kind::File, Some(name)) if is_picture(name) => {
                    // As tar unpacks: of two members of one name, the later counts.
                    listing.pictures.insert(member.parts.clone(), Place::Member(number));
                }
                (Kind::Link, _) => listing.links += 1,
                (Kind::File | Kind::Other, _) => listing.others += 1,
                (Kind::Folder, _) => {}
            }
            number += 1;
            Ok(())
        })?;
    }
    let Listing { pictures, links, others } = &listing;
    ensure!(!pictures.is_empty(), "{} holds no PNG or JPEG pictures", path.display());
    if links + others > 0 {
        tracing::info!("{}: ignored {links} links and {others} files that are no pictures", path.display());
    }
    Ok(listing)
}

fn list_folder(folder: &Path, parts: &mut Vec<String>, above: &mut Vec<PathBuf>, listing: &mut Listing) -> Result<()> {
    let context = || format!("cannot read the folder {}", folder.display());
    let place = folder.canonicalize().with_context(context)?;
    let loops = above.contains(&place) || above.len() == MAX_DEPTH;
    ensure!(!loops, "the folder {} leads back into itself, or lies too deep", folder.display());
    above.push(place);
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if name.starts_with('.') {
            continue;
        }
        parts.push(name);
        if path.is_dir() {
            list_folder(&path, parts, above, listing)?;
        } else if parts.last().is_some_and(|name| is_picture(name)) {
            listing.pictures.insert(parts.clone(), Place::File(path));
        } else {
            listing.others += 1;
        }
        parts.pop();
    }
    above.pop();
    Ok(())
}

/// By its name. Hidden files are none: some systems add `._name.jpg` to archives.
fn is_picture(name: &str) -> bool {
    let lower = name.to_lowercase();
    !name.starts_with('.') && ENDINGS.iter().any(|ending| lower.ends_with(ending))
}

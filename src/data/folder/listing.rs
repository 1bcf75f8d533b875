//! Lists the pictures in a folder or archive, in an order that depends only on their names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::members::Members;
use super::names::{foreign_ending, is_hidden, is_picture, list_of};
use super::tree::{Disk, Entry, Location, Tree};
use crate::data::archive;
use crate::data::counted;
use crate::data::member::{Kind, MAX_DEPTH};
use crate::files::printable;

/// The most folders and files to look at. Links within an archive can multiply its members.
const MAX_ENTRIES: u64 = 10_000_000;
/// The most memory for paths: every part of a path takes its bytes and `PART_BYTES`.
const MAX_BYTES: usize = 2 << 30;
const PART_BYTES: usize = 64;

/// The parts of a path below the root.
pub type Parts = Vec<String>;

/// The pictures of a folder or archive.
#[derive(Debug, Default)]
pub struct Listing {
    /// The locations of the pictures, sorted by the components of their paths.
    pub pictures: BTreeMap<Parts, Location>,
    /// The paths of the folders. Those of an archive that it neither lists nor uses are missing.
    pub folders: BTreeSet<Parts>,
    /// Links that lead nowhere and do not have the name of a picture, with the reason.
    pub broken: BTreeMap<Parts, String>,
    /// The paths of pictures in other formats.
    pub foreign: Vec<Parts>,
    /// The members of an archive whose paths lead out of it: their number, and the first.
    outside: (usize, String),
    /// The number of files whose names are not those of pictures.
    others: usize,
    /// The folder or archive, for messages.
    root: String,
    entries: u64,
    bytes: usize,
}

/// Lists a folder or an archive, without unpacking the archive. Hidden files, and folders that a system keeps for itself,
/// are left out.
pub fn list(path: &Path) -> Result<Listing> {
    let mut listing = Listing { root: printable(&path.to_string_lossy()).into_owned(), ..Listing::default() };
    if path.is_dir() {
        listing.add_tree(&Disk(path))?;
    } else {
        let members = read_members(path, &mut listing)?;
        listing.add_tree(&members)?;
    }
    listing.report()?;
    Ok(listing)
}

fn read_members(path: &Path, listing: &mut Listing) -> Result<Members> {
    let (mut members, mut number) = (Members::default(), 0);
    archive::for_each(path, |member, _| {
        match &member.kind {
            Kind::Outside(name) => {
                listing.outside.0 += 1;
                if listing.outside.0 == 1 {
                    listing.outside.1.clone_from(name);
                }
            }
            _ => members.add(number, member)?,
        }
        number += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(members)
}

impl Listing {
    fn add_tree<T: Tree>(&mut self, tree: &T) -> Result<()> {
        self.add_folder(tree, tree.root()?, &mut Vec::new(), &mut Vec::new())
    }

    fn add_folder<T: Tree>(
        &mut self,
        tree: &T,
        folder: T::Folder,
        parts: &mut Parts,
        ancestors: &mut Vec<T::Folder>,
    ) -> Result<()> {
        let shown = || format!("{}/{}", self.root, printable(&parts.join("/")));
        ensure!(
            !ancestors.contains(&folder),
            "the folder {} leads back into itself; remove the link in its path",
            shown()
        );
        ensure!(ancestors.len() < MAX_DEPTH, "{} is more than {MAX_DEPTH} folders deep; move its pictures up", shown());
        let entries = tree.entries(&folder, |name| !is_hidden(name))?;
        ancestors.push(folder);
        for (name, entry) in entries {
            self.entries += 1;
            ensure!(self.entries <= MAX_ENTRIES, "{} has more than {MAX_ENTRIES} files and folders", self.root);
            parts.push(name);
            match entry {
                Entry::Folder(folder) => {
                    let path = self.path(parts)?;
                    self.folders.insert(path);
                    self.add_folder(tree, folder, parts, ancestors)?;
                }
                Entry::File(location) => self.add_file(parts, location)?,
            }
            parts.pop();
        }
        ancestors.pop();
        Ok(())
    }

    fn add_file(&mut self, parts: &[String], location: Location) -> Result<()> {
        let name = parts.last().map_or("", String::as_str);
        if is_picture(name) {
            ensure!(
                location != Location::Sparse,
                "{}/{} is stored as a sparse file, which is not supported; pack it without --sparse",
                self.root,
                printable(&parts.join("/"))
            );
            let path = self.path(parts)?;
            let is_new = self.pictures.insert(path, location).is_none();
            ensure!(is_new, "{} has two files {}", self.root, printable(&parts.join("/")));
        } else if let Location::Broken(why) = location {
            let path = self.path(parts)?;
            self.broken.insert(path, why);
        } else if foreign_ending(name).is_some() {
            let path = self.path(parts)?;
            self.foreign.push(path);
        } else {
            self.others += 1;
        }
        Ok(())
    }

    /// A copy of the path, whose memory is counted.
    fn path(&mut self, parts: &[String]) -> Result<Parts> {
        self.bytes += parts.iter().map(|part| part.len() + PART_BYTES).sum::<usize>();
        let enough = self.bytes <= MAX_BYTES;
        ensure!(enough, "the names of the files in {} take more than {} MiB", self.root, MAX_BYTES >> 20);
        Ok(parts.to_vec())
    }

    /// The pictures in other formats below a folder, in words; `None` if there are none.
    pub fn foreign_below(&self, folder: &[String]) -> Option<String> {
        let below: Vec<&Parts> = self.foreign.iter().filter(|path| path.starts_with(folder)).collect();
        let endings: BTreeSet<&str> =
            below.iter().filter_map(|path| foreign_ending(path.last().map_or("", String::as_str))).collect();
        let endings = endings.into_iter().collect::<Vec<_>>().join(", ");
        (!below.is_empty()).then(|| format!("{} in other formats ({endings})", counted(below.len(), "picture")))
    }

    /// The error for folders that should have pictures.
    pub fn without_pictures(&self, folders: &[Parts]) -> String {
        let names: Vec<String> = folders.iter().map(|path| path.join("/")).collect();
        let (are, hold, them) = match names.len() {
            1 => ("folder", "holds", "it"),
            _ => ("folders", "hold", "them"),
        };
        let remedy = match folders.iter().find_map(|path| self.foreign_below(path)) {
            Some(foreign) => format!(", but {foreign}; convert them to PNG or JPEG"),
            None => format!("; add some, or remove {them}"),
        };
        format!("the {are} {} {hold} no PNG or JPEG pictures{remedy}", list_of(&names))
    }

    /// Logs what was skipped, and checks that pictures are left.
    fn report(&self) -> Result<()> {
        let path = &self.root;
        let foreign = self.foreign_below(&[]);
        let outside = match &self.outside {
            (0, _) => None,
            (count, first) => {
                let (members, lead) = (counted(*count, "member"), if *count == 1 { "leads" } else { "lead" });
                Some(format!("skipping {members} whose path {lead} out of the archive, such as {first}"))
            }
        };
        if self.pictures.is_empty() {
            let but = foreign.as_ref().map(|foreign| format!(", but {foreign}; convert them to PNG or JPEG"));
            let outside = outside.map(|outside| format!("; {outside}; pack them with relative paths (tar -C FOLDER)"));
            bail!("{path} holds no PNG or JPEG pictures{}{}", but.unwrap_or_default(), outside.unwrap_or_default());
        }
        if let Some(foreign) = foreign {
            tracing::warn!("{path}: skipping {foreign}; convert them to PNG or JPEG");
        }
        if let Some(outside) = outside {
            tracing::warn!("{path}: {outside}");
        }
        if self.others > 0 {
            tracing::info!("{path}: ignored {}", counted(self.others, "other file"));
        }
        Ok(())
    }
}

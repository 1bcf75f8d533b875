//! What a folder and an archive have in common: a tree of folders and files whose links are resolved.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::{name_of, printable};

/// The location of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    File(PathBuf),
    /// The index of a member of the archive, from 0.
    Member(u64),
    /// A member of the archive that is a sparse file.
    Sparse,
    /// A link to nothing, with the reason.
    Broken(String),
}

/// An entry of a folder, with links resolved.
pub enum Entry<F> {
    Folder(F),
    /// A file, or a link that leads nowhere.
    File(Location),
}

/// A tree of folders and files.
pub trait Tree {
    /// A folder. Two are equal if they are the same folder, whatever links lead to them.
    type Folder: PartialEq;

    fn root(&self) -> Result<Self::Folder>;

    /// The entries whose names satisfy `wanted`, each with its name. Others are not even looked at: a helper folder of
    /// the system may be unreadable.
    fn entries(&self, folder: &Self::Folder, wanted: fn(&str) -> bool) -> Result<Vec<(String, Entry<Self::Folder>)>>;
}

/// A folder on disk. Links are its owner's choice, so they are followed wherever they lead.
pub struct Disk<'a>(pub &'a Path);

/// A folder on disk, which is identified by its path without links.
pub struct DiskFolder {
    path: PathBuf,
    canonical: PathBuf,
}

impl PartialEq for DiskFolder {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl DiskFolder {
    fn open(path: PathBuf) -> Result<Self> {
        let canonical = path.canonicalize().with_context(|| unreadable(&path))?;
        Ok(Self { path, canonical })
    }
}

fn unreadable(path: &Path) -> String {
    format!("cannot read the folder {}", printable(&path.to_string_lossy()))
}

impl Tree for Disk<'_> {
    type Folder = DiskFolder;

    fn root(&self) -> Result<DiskFolder> {
        DiskFolder::open(self.0.into())
    }

    fn entries(&self, folder: &DiskFolder, wanted: fn(&str) -> bool) -> Result<Vec<(String, Entry<DiskFolder>)>> {
        let context = || unreadable(&folder.path);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&folder.path).with_context(context)? {
            let entry = entry.with_context(context)?;
            let (name, path) = (name_of(entry.file_name().as_encoded_bytes()), entry.path());
            if !wanted(&name) {
                continue;
            }
            let found = match path.metadata() {
                Ok(metadata) if metadata.is_dir() => Entry::Folder(DiskFolder::open(path)?),
                Ok(_) => Entry::File(Location::File(path)),
                Err(error) => Entry::File(Location::Broken(error.to_string())),
            };
            entries.push((name, found));
        }
        Ok(entries)
    }
}

//! What the headers of a tar archive say of a member: its path, type and size.

use std::io::{self, Read};

use anyhow::{Result, anyhow, ensure};
use tar::{Entry, EntryType, PaxExtensions};

use crate::files::{name_of, printable};

/// The longest extended header that is accepted, in bytes.
const MAX_HEADER: u64 = 64 << 10;
/// The longest path of a member or of the target of a link, in bytes, as on Linux.
const MAX_PATH: usize = 4096;
/// The deepest nesting of folders. Deeper ones are a loop or not a data set.
pub const MAX_DEPTH: usize = 32;
/// The most components of a path: the archive's own top-level folder and the member itself come on top.
const MAX_PARTS: usize = MAX_DEPTH + 2;

/// The type of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A hard link to an earlier member, with the parts of its path.
    HardLink(Vec<String>),
    /// A symbolic link with its target, which may be anything.
    SymbolicLink(String),
    /// A sparse file. Its content is stored in pieces, which are not put together.
    Sparse,
    /// A device or a named pipe.
    Other,
    /// A member whose path points outside the archive; the path for messages.
    Outside(String),
}

/// A member of an archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// The components of its path, without `.`; empty if the name is not a plain relative path.
    pub parts: Vec<String>,
    pub kind: Kind,
    /// The size of its content in bytes.
    pub size: u64,
}

/// What extended headers say of the next member.
#[derive(Default)]
pub struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    /// The size, which counts instead of that in the header.
    size: Option<u64>,
    sparse: bool,
    /// The path of a sparse file whose header has a made-up one.
    sparse_path: Option<Vec<u8>>,
}

impl Extended {
    pub fn read_pax<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let bytes = read_header(entry)?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension.map_err(damaged)?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                b"size" => {
                    let size = extension.value().ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| damaged(io::Error::other("the size of a member")))?);
                }
                key => {
                    self.sparse |= key.starts_with(b"GNU.sparse.");
                    if key == b"GNU.sparse.name" {
                        self.sparse_path = Some(extension.value_bytes().to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

/// # Errors
/// If a path is too long.
pub fn member<R: Read>(entry: &Entry<'_, R>, extended: Extended) -> Result<Member> {
    let header = entry.header();
    let name = extended.sparse_path.or(extended.path).unwrap_or_else(|| header.path_bytes().into_owned());
    check_path(&name)?;
    let target = || -> Result<Vec<u8>> {
        let target = extended.link.or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
        check_path(&target)?;
        Ok(target)
    };
    let parts = plain_parts(&name);
    let kind = match header.entry_type() {
        _ if parts.is_none() => Kind::Outside(printable(&name_of(&name)).into_owned()),
        // Its path was cut. The folder that is too deep is reported unless it is below a hidden one.
        _ if parts.as_ref().is_some_and(|parts| parts.len() > MAX_PARTS) => Kind::Folder,
        EntryType::GNUSparse => Kind::Sparse,
        EntryType::Regular if extended.sparse => Kind::Sparse,
        // Tar before POSIX had no type for folders.
        EntryType::Regular if name.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink => Kind::SymbolicLink(parts_of(&target()?).join("/")),
        EntryType::Link => {
            let target = target()?;
            // A path that leads out of the archive is none of its members.
            Kind::HardLink(plain_parts(&target).unwrap_or_else(|| vec![name_of(&target)]))
        }
        _ => Kind::Other,
    };
    let has_content = matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
    let size = extended.size.filter(|_| has_content).unwrap_or(entry.size());
    Ok(Member { parts: parts.unwrap_or_default(), kind, size })
}

fn check_path(path: &[u8]) -> Result<()> {
    let shown = || name_of(&path[..path.len().min(60)]);
    ensure!(path.len() <= MAX_PATH, "the path {}… of a member is longer than {MAX_PATH} bytes", shown());
    Ok(())
}

/// The parts of a path as text, with empty ones.
fn parts_of(path: &[u8]) -> Vec<String> {
    path.split(|&byte| byte == b'/').map(name_of).collect()
}

/// The components of a relative path, without `.`; `None` if the path is absolute or contains `..` or a NUL byte. There are
/// at most `MAX_PARTS + 1`: thousands take more time than they are worth.
fn plain_parts(path: &[u8]) -> Option<Vec<String>> {
    let parts = || path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let is_plain = !path.starts_with(b"/") && !path.contains(&0) && parts().all(|part| part != b"..");
    is_plain.then(|| parts().take(MAX_PARTS + 1).map(name_of).collect())
}

pub fn long_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    let mut name = read_header(entry)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn read_header<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    ensure!(entry.size() <= MAX_HEADER, "a member's name has {} bytes; the archive is damaged", entry.size());
    let mut header = Vec::new();
    entry.read_to_end(&mut header).map_err(damaged)?;
    Ok(header)
}

/// Explains a failure to read the bytes of an archive.
pub fn damaged(error: io::Error) -> anyhow::Error {
    let cause = error.to_string();
    anyhow!("it is cut off, damaged, or not a .tar, .tar.gz or .tar.xz archive ({cause}); copy or download it again")
}

//! Streams the members of a tar archive (plain, gzip or xz) without unpacking it to disk.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use crate::files::{name_of, printable};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// The beginnings of a zip archive and of an empty one.
const ZIP_MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
/// The size of a member's header in bytes.
const HEADER_LEN: usize = 512;
/// Bounds the memory that an xz header can request. `xz -9` needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// The longest extended header that is accepted, in bytes.
const MAX_HEADER: u64 = 64 << 10;
/// The longest path of a member or of the target of a link, in bytes, as on Linux.
const MAX_PATH: usize = 4096;
/// The deepest nesting of folders. Deeper ones are a loop or not a data set.
pub const MAX_DEPTH: usize = 32;
/// The most members, extended headers included.
const MAX_MEMBERS: u64 = 10_000_000;
/// A compressed archive may have this many bytes when it is unpacked, and `MAX_RATIO` more for each of its own. Pictures
/// are compressed themselves, so only an archive that is made to waste time and memory unpacks to more.
const MAX_UNPACKED: u64 = 1 << 30;
const MAX_RATIO: u64 = 64;
/// The most padding to read after the end-of-archive marker: archives are padded to whole tape records.
const MAX_PADDING: u64 = 1 << 20;

/// The type of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A hard link to an earlier member, with the parts of its path.
    HardLink(Vec<String>),
    /// A symbolic link with its target, which may be anything.
    SymbolicLink(String),
    /// A device.
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

/// Whether the path has the extension of an archive that [`for_each`] reads.
pub fn is_archive(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"].iter().any(|ending| name.ends_with(ending))
}

/// Calls `visit` for every member in the archive's order, with a reader of the member's content, until it breaks off.
/// `visit` may leave the content unread. The archive is not trusted: the number of members, the length and depth of their
/// paths, and the unpacked size are limited.
///
/// # Errors
/// If the file cannot be read, is not a supported archive, is truncated or damaged, exceeds a limit, or `visit` fails.
/// Every error names the path.
pub fn for_each(path: &Path, visit: impl FnMut(&Member, &mut dyn Read) -> Result<ControlFlow<()>>) -> Result<()> {
    let open = || -> Result<(File, u64)> {
        // Checked before opening, because opening a named pipe would block forever.
        let metadata = path.metadata()?;
        ensure!(metadata.is_file(), "it is not a regular file");
        Ok((File::open(path)?, metadata.len()))
    };
    let walk = |(file, length)| {
        let exceeded = Rc::new(Cell::new(false));
        let walked = walk(decompress(file, length, &exceeded)?, visit);
        let gigabytes = (MAX_UNPACKED + length * MAX_RATIO) as f64 / 1e9;
        ensure!(
            !exceeded.get(),
            "it unpacks to more than {gigabytes:.1} GB, much more than pictures do; unpack it and give the folder"
        );
        walked
    };
    open().and_then(walk).with_context(|| format!("cannot read {}", path.display()))
}

/// A reader of the uncompressed archive of `length` bytes. The first bytes of the file identify the compression.
/// `exceeded` is set when a compressed archive is too large.
fn decompress(file: File, length: u64, exceeded: &Rc<Cell<bool>>) -> Result<Box<dyn Read>> {
    let mut source = BufReader::with_capacity(1 << 20, file);
    let mut start = Vec::new();
    source.by_ref().take(XZ_MAGIC.len() as u64).read_to_end(&mut start)?;
    let is_zip = ZIP_MAGICS.iter().any(|magic| start.starts_with(magic));
    ensure!(!is_zip, "zip archives are not supported; unpack it, or make a tar archive");
    let (is_gzip, is_xz) = (start.starts_with(GZIP_MAGIC), start == XZ_MAGIC);
    let full = Cursor::new(start).chain(source);
    let source: Box<dyn Read> = match (is_gzip, is_xz) {
        (true, _) => Box::new(MultiGzDecoder::new(full)),
        (_, true) => Box::new(XzReader::new_mem_limit(full, true, XZ_MEMORY_KIB)),
        _ => return Ok(Box::new(full)),
    };
    Ok(Box::new(Limited { source, left: MAX_UNPACKED + length * MAX_RATIO, exceeded: Rc::clone(exceeded) }))
}

fn walk(
    mut source: Box<dyn Read>,
    mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // Checked here, because the reader's own error would quote the bytes of a file that is no archive.
    let mut first = Vec::new();
    source.by_ref().take(HEADER_LEN as u64).read_to_end(&mut first).map_err(damaged)?;
    ensure!(first.is_empty() || starts_tar(&first), "this is not a tar archive (.tar, .tar.gz or .tar.xz)");
    let source: Box<dyn Read> = Box::new(Cursor::new(first).chain(source));
    let zeros = Rc::new(Cell::new(0));
    let mut archive = Archive::new(TrailingZeros { source, zeros: Rc::clone(&zeros) });
    // In raw mode the entries of long names are visible, so their size can be limited here.
    let entries = archive.entries().map_err(damaged)?.raw(true);
    let (mut extended, mut members) = (Extended::default(), 0_u64);
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        members += 1;
        ensure!(members <= MAX_MEMBERS, "it has more than {MAX_MEMBERS} members");
        match entry.header().entry_type() {
            EntryType::GNULongName => extended.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => extended.link = Some(long_name(&mut entry)?),
            EntryType::XHeader => extended.read_pax(&mut entry)?,
            EntryType::XGlobalHeader => {}
            _ => {
                let member = member(&entry, std::mem::take(&mut extended))?;
                let mut content = Content { remaining: entry.size(), source: &mut entry };
                if visit(&member, &mut content)?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    ensure!(members > 0, "it is empty");
    // A decompressor verifies its checksum only at the end of the stream.
    let mut rest = archive.into_inner();
    io::copy(&mut rest.by_ref().take(MAX_PADDING), &mut io::sink()).map_err(damaged)?;
    ensure!(zeros.get() >= 512, "it is cut off: the end-of-archive marker is missing; copy or download it again");
    Ok(())
}

/// Whether a file that begins with these bytes is a tar archive: its first header has the magic of POSIX and GNU tar or,
/// in older formats, the right checksum. An archive without members begins with zeros.
fn starts_tar(first: &[u8]) -> bool {
    if first.len() < HEADER_LEN {
        return false;
    }
    let (before, checksum, after) = (&first[..148], &first[148..156], &first[156..]);
    // The checksum counts its own eight bytes as spaces.
    let sum = before.iter().chain(after).map(|&byte| u32::from(byte)).sum::<u32>() + 8 * u32::from(b' ');
    let stated = u32::from_str_radix(String::from_utf8_lossy(checksum).trim_matches(['\0', ' ']), 8);
    first[257..].starts_with(b"ustar") || stated == Ok(sum) || first.iter().all(|&byte| byte == 0)
}

/// What extended headers say of the next member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    sparse: bool,
}

impl Extended {
    fn read_pax<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let bytes = read_header(entry)?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension.map_err(damaged)?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                b"size" => bail!("one of its members is larger than 8 GiB and cannot be a picture"),
                key => self.sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

/// # Errors
/// If a path is too long or too deep, or the member is a sparse file.
fn member<R: Read>(entry: &Entry<'_, R>, extended: Extended) -> Result<Member> {
    let header = entry.header();
    let name = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    check_path(&name)?;
    let shown = || printable(&name_of(&name)).into_owned();
    let is_sparse = extended.sparse || header.entry_type() == EntryType::GNUSparse;
    ensure!(!is_sparse, "{} is stored as a sparse file, which is not supported; pack it without --sparse", shown());
    let target = || -> Result<Vec<u8>> {
        let target = extended.link.or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
        check_path(&target)?;
        Ok(target)
    };
    let parts = plain_parts(&name);
    let kind = match header.entry_type() {
        _ if parts.is_none() => Kind::Outside(shown()),
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
    Ok(Member { parts: parts.unwrap_or_default(), kind, size: entry.size() })
}

/// Checked before a path is split: thousands of levels take more time than they are worth.
fn check_path(path: &[u8]) -> Result<()> {
    let shown = || name_of(&path[..path.len().min(60)]);
    ensure!(path.len() <= MAX_PATH, "the path {}… of a member is longer than {MAX_PATH} bytes", shown());
    // The archive's own top-level folder and the member itself come on top.
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").count();
    ensure!(parts <= MAX_DEPTH + 2, "{}… is more than {MAX_DEPTH} folders deep; move its pictures up", shown());
    Ok(())
}

/// The parts of a path as text, with empty ones.
fn parts_of(path: &[u8]) -> Vec<String> {
    path.split(|&byte| byte == b'/').map(name_of).collect()
}

/// The components of a relative path, without `.`; `None` if the path is absolute or contains `..` or a NUL byte.
fn plain_parts(path: &[u8]) -> Option<Vec<String>> {
    if path.starts_with(b"/") || path.contains(&0) {
        return None;
    }
    let parts: Vec<String> = parts_of(path).into_iter().filter(|part| !part.is_empty() && part != ".").collect();
    (!parts.iter().any(|part| part == "..")).then_some(parts)
}

fn long_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
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
fn damaged(error: io::Error) -> anyhow::Error {
    let cause = error.to_string();
    anyhow!("it is cut off, damaged, or not a .tar, .tar.gz or .tar.xz archive ({cause}); copy or download it again")
}

/// A reader that fails after `left` bytes.
struct Limited {
    source: Box<dyn Read>,
    left: u64,
    exceeded: Rc<Cell<bool>>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.exceeded.set(true);
                return Err(io::Error::other("it is too large"));
            }
        }
        Ok(count)
    }
}

/// A reader that counts the zero bytes at the end of the data read so far. They are the end-of-archive marker.
struct TrailingZeros {
    source: Box<dyn Read>,
    zeros: Rc<Cell<u64>>,
}

impl Read for TrailingZeros {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        let zeros = buffer[..count].iter().rev().take_while(|byte| **byte == 0).count();
        let before = if zeros == count { self.zeros.get() } else { 0 };
        self.zeros.set(before + zeros as u64);
        Ok(count)
    }
}

/// The content of a member. A premature end or a read error is reported as damage of the archive.
struct Content<'a, R> {
    source: &'a mut R,
    remaining: u64,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // `Other` instead of the cause's kind, because callers take `UnexpectedEof` for a truncated member.
        let explain = |error: io::Error| io::Error::other(damaged(error).to_string());
        let count = self.source.read(buffer).map_err(explain)?;
        self.remaining = self.remaining.saturating_sub(count as u64);
        if count == 0 && self.remaining > 0 && !buffer.is_empty() {
            return Err(explain(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(count)
    }
}

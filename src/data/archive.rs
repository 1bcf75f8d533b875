//! Streams the members of a tar archive (plain, gzip or xz) without unpacking it to disk.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use tar::{Archive, Entry, EntryType, PaxExtensions};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// The beginnings of a zip archive and of an empty one.
const ZIP_MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
/// The size of a member's header in bytes.
const HEADER_LEN: usize = 512;
/// Bounds the memory that an xz header can request. `xz -9` needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// The longest member name that is accepted, in bytes.
const MAX_NAME: u64 = 64 << 10;
/// The most padding to read after the end-of-archive marker: archives are padded to whole tape records.
const MAX_PADDING: u64 = 1 << 20;

/// The type of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A hard or symbolic link, which is never followed.
    Link,
    /// A device, or a member whose path points outside the archive.
    Other,
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

/// Calls `visit` for every member in the archive's order, with a reader of the member's content. `visit` may leave the
/// content unread.
///
/// # Errors
/// If the file cannot be read, is not a supported archive, is truncated or damaged, or `visit` fails. Every error names
/// the path.
pub fn for_each(path: &Path, visit: impl FnMut(&Member, &mut dyn Read) -> Result<()>) -> Result<()> {
    let open = || -> Result<File> {
        // Checked before opening, because opening a named pipe would block forever.
        ensure!(path.metadata()?.is_file(), "it is not a regular file");
        Ok(File::open(path)?)
    };
    let walk = |file| walk(decompress(file)?, visit);
    open().and_then(walk).with_context(|| format!("cannot read {}", path.display()))
}

/// A reader of the uncompressed archive. The first bytes of the file identify the compression.
fn decompress(file: File) -> Result<Box<dyn Read>> {
    let mut source = BufReader::with_capacity(1 << 20, file);
    let mut start = Vec::new();
    source.by_ref().take(XZ_MAGIC.len() as u64).read_to_end(&mut start)?;
    let is_zip = ZIP_MAGICS.iter().any(|magic| start.starts_with(magic));
    ensure!(!is_zip, "zip archives are not supported; unpack it, or make a tar archive");
    let (is_gzip, is_xz) = (start.starts_with(GZIP_MAGIC), start == XZ_MAGIC);
    let full = Cursor::new(start).chain(source);
    Ok(match (is_gzip, is_xz) {
        (true, _) => Box::new(MultiGzDecoder::new(full)),
        (_, true) => Box::new(XzReader::new_mem_limit(full, true, XZ_MEMORY_KIB)),
        _ => Box::new(full),
    })
}

fn walk(mut source: Box<dyn Read>, mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<()>) -> Result<()> {
    // Checked here, because the reader's own error would quote the bytes of a file that is no archive.
    let mut first = Vec::new();
    source.by_ref().take(HEADER_LEN as u64).read_to_end(&mut first).map_err(damaged)?;
    ensure!(first.is_empty() || starts_tar(&first), "this is not a tar archive (.tar, .tar.gz or .tar.xz)");
    let source: Box<dyn Read> = Box::new(Cursor::new(first).chain(source));
    let zeros = Rc::new(Cell::new(0));
    let mut archive = Archive::new(TrailingZeros { source, zeros: Rc::clone(&zeros) });
    // In raw mode the entries of long names are visible, so their size can be limited here.
    let entries = archive.entries().map_err(damaged)?.raw(true);
    let (mut name, mut members) = (None, 0_u64);
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        members += 1;
        match entry.header().entry_type() {
            EntryType::GNULongName => name = Some(long_name(&mut entry)?),
            EntryType::XHeader => name = pax_name(&mut entry)?.or(name),
            EntryType::XGlobalHeader | EntryType::GNULongLink => {}
            _ => {
                let member = member(&entry, name.take());
                visit(&member, &mut Content { remaining: entry.size(), source: &mut entry })?;
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

fn member<R: Read>(entry: &Entry<'_, R>, long_name: Option<Vec<u8>>) -> Member {
    let header = entry.header();
    let name = long_name.unwrap_or_else(|| header.path_bytes().into_owned());
    let parts = plain_parts(&String::from_utf8_lossy(&name));
    let kind = match header.entry_type() {
        _ if parts.is_none() => Kind::Other,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Folder,
        EntryType::Link | EntryType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    Member { parts: parts.unwrap_or_default(), kind, size: entry.size() }
}

/// The components of a relative path; `None` if the path is absolute or contains `..` or a NUL byte.
fn plain_parts(name: &str) -> Option<Vec<String>> {
    if name.starts_with('/') || name.contains('\0') {
        return None;
    }
    let parts: Vec<String> =
        name.split('/').filter(|part| !part.is_empty() && *part != ".").map(String::from).collect();
    (!parts.iter().any(|part| part == "..")).then_some(parts)
}

fn long_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    let mut name = read_name(entry)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn pax_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Option<Vec<u8>>> {
    let bytes = read_name(entry)?;
    for extension in PaxExtensions::new(&bytes) {
        let extension = extension.map_err(damaged)?;
        match extension.key_bytes() {
            b"path" => return Ok(Some(extension.value_bytes().to_vec())),
            b"size" => bail!("one of its members is larger than 8 GiB and cannot be a picture"),
            _ => {}
        }
    }
    Ok(None)
}

fn read_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    ensure!(entry.size() <= MAX_NAME, "a member's name has {} bytes; the archive is damaged", entry.size());
    let mut name = Vec::new();
    entry.read_to_end(&mut name).map_err(damaged)?;
    Ok(name)
}

/// Explains a failure to read the bytes of an archive.
fn damaged(error: io::Error) -> anyhow::Error {
    let cause = error.to_string();
    anyhow!("it is cut off, damaged, or not a .tar, .tar.gz or .tar.xz archive ({cause}); copy or download it again")
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

//! Going through a tar archive, plain, gzipped or xz, member by member. Nothing is written to disk.

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
/// `xz -9` needs 64 MiB; this bounds what a header can make us allocate.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// Longer names are not followed.
const MAX_NAME: u64 = 64 << 10;
/// What may follow the end mark: archives are padded to whole tape records.
const MAX_PADDING: u64 = 1 << 20;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A hard or symbolic link; it is never followed.
    Link,
    /// A device, or a name that leads out of the archive.
    Other,
}

/// A member of an archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its path, part by part, without `.`; empty where the name is no plain relative path.
    pub parts: Vec<String>,
    pub kind: Kind,
    /// Bytes of its content.
    pub size: u64,
}

/// Whether the name is one of an archive that [`for_each`] reads.
pub fn is_archive(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"].iter().any(|ending| name.ends_with(ending))
}

/// Shows every member in the archive's order, with a reader of its content, to `visit`, which need not read it.
///
/// # Errors
/// Where the file cannot be read, is no such archive, is cut off or damaged, and those of `visit`; all with the path.
pub fn for_each(path: &Path, visit: impl FnMut(&Member, &mut dyn Read) -> Result<()>) -> Result<()> {
    let open = || -> Result<File> {
        // Before opening: that alone would wait forever on a named pipe.
        ensure!(path.metadata()?.is_file(), "it is not a regular file");
        Ok(File::open(path)?)
    };
    let walk = |file| walk(decompress(file)?, visit);
    open().and_then(walk).with_context(|| format!("cannot read {}", path.display()))
}

/// The archive's bytes, whatever they are packed in by the first of them.
fn decompress(file: File) -> Result<Box<dyn Read>> {
    let mut source = BufReader::with_capacity(1 << 20, file);
    let mut start = Vec::new();
    source.by_ref().take(XZ_MAGIC.len() as u64).read_to_end(&mut start)?;
    let (is_gzip, is_xz) = (start.starts_with(GZIP_MAGIC), start == XZ_MAGIC);
    let whole = Cursor::new(start).chain(source);
    Ok(match (is_gzip, is_xz) {
        (true, _) => Box::new(MultiGzDecoder::new(whole)),
        (_, true) => Box::new(XzReader::new_mem_limit(whole, true, XZ_MEMORY_KIB)),
        _ => Box::new(whole),
    })
}

fn walk(source: Box<dyn Read>, mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<()>) -> Result<()> {
    let zeros = Rc::new(Cell::new(0));
    let mut archive = Archive::new(Tail { source, zeros: Rc::clone(&zeros) });
    // Raw, because names that continue elsewhere are then read here, within limits.
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
                visit(&member, &mut Content { left: entry.size(), source: &mut entry })?;
            }
        }
    }
    ensure!(members > 0, "it is empty, or not a tar archive");
    // Reading on to the end makes a decompressor verify its checksum.
    let mut rest = archive.into_inner();
    io::copy(&mut rest.by_ref().take(MAX_PADDING), &mut io::sink()).map_err(damaged)?;
    ensure!(zeros.get() >= 512, "it is cut off: there is no mark of its end; copy or download it again");
    Ok(())
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

/// The parts of a relative path that stays below its root.
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
            b"size" => bail!("one of its members has more than 8 GiB, which is no picture"),
            _ => {}
        }
    }
    Ok(None)
}

fn read_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    ensure!(entry.size() <= MAX_NAME, "a name in it has {} bytes; it is damaged", entry.size());
    let mut name = Vec::new();
    entry.read_to_end(&mut name).map_err(damaged)?;
    Ok(name)
}

/// Says what a failed read of an archive's bytes means.
fn damaged(error: io::Error) -> anyhow::Error {
    let words = error.to_string();
    anyhow!("it is cut off, damaged, or not a .tar, .tar.gz or .tar.xz archive ({words}); copy or download it again")
}

/// Counts the zeros at the end of what was read.
struct Tail {
    source: Box<dyn Read>,
    zeros: Rc<Cell<u64>>,
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        let zeros = buffer[..count].iter().rev().take_while(|byte| **byte == 0).count();
        let before = if zeros == count { self.zeros.get() } else { 0 };
        self.zeros.set(before + zeros as u64);
        Ok(count)
    }
}

/// A member's content, whose early end or failure is the archive's.
struct Content<'a, R> {
    source: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Another kind than the cause's: an archive that ends early is not a member that does.
        let explain = |error: io::Error| io::Error::other(damaged(error).to_string());
        let count = self.source.read(buffer).map_err(explain)?;
        self.left = self.left.saturating_sub(count as u64);
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(explain(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(count)
    }
}

//! Streams the members of a tar archive (plain, gzip or xz) without unpacking it to disk.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use tar::{Archive, EntryType, GnuExtSparseHeader, GnuHeader};

use super::member::{Extended, Kind, Member, damaged, long_name, member};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// The beginnings of a zip archive and of an empty one.
const ZIP_MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
/// The size of a member's header in bytes.
const HEADER_LEN: usize = 512;
/// Bounds the memory that an xz header can request. `xz -9` needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// The most members, extended headers included.
const MAX_MEMBERS: u64 = 10_000_000;
/// A compressed archive may have this many bytes when it is unpacked, and `MAX_RATIO` more for each of its own. Pictures
/// are compressed themselves, so only an archive that is made to waste time and memory unpacks to more.
const MAX_UNPACKED: u64 = 1 << 30;
const MAX_RATIO: u64 = 64;
/// The most padding to read after the end-of-archive marker: archives are padded to whole tape records.
const MAX_PADDING: u64 = 1 << 20;

/// Whether the path has the extension of an archive that [`for_each`] reads.
pub fn is_archive(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"].iter().any(|ending| name.ends_with(ending))
}

/// Calls `visit` for every member in the archive's order, with a reader of the member's content, until it breaks off.
/// `visit` may leave the content unread. The archive is not trusted: the number of members, the length of their paths and
/// the unpacked size are limited, and a path that is too deep is cut.
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

/// What follows in an archive after the members that [`walk_plain`] has visited.
enum Next {
    /// Nothing: `visit` broke off.
    Break,
    /// The end-of-archive marker.
    End,
    /// The content of a member whose header does not say its whole length.
    Content(Member, Layout),
}

/// How the content of a member is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Plain,
    /// After further blocks of the map of a sparse file.
    AfterMap,
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
    let mut rest = TrailingZeros { source, zeros: Rc::clone(&zeros) };
    let mut members = 0;
    loop {
        let mut archive = Archive::new(rest);
        let next = walk_plain(&mut archive, &mut members, &mut visit)?;
        rest = archive.into_inner();
        match next {
            Next::Break => return Ok(()),
            Next::End => break,
            Next::Content(member, layout) => {
                if visit_content(&mut rest, &member, layout, &mut visit)?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    ensure!(members > 0, "it is empty");
    // A decompressor verifies its checksum only at the end of the stream.
    io::copy(&mut rest.by_ref().take(MAX_PADDING), &mut io::sink()).map_err(damaged)?;
    ensure!(zeros.get() >= 512, "it is cut off: the end-of-archive marker is missing; copy or download it again");
    Ok(())
}

/// Visits members up to one whose content the reader cannot find.
fn walk_plain<R: Read>(
    archive: &mut Archive<R>,
    members: &mut u64,
    visit: &mut impl FnMut(&Member, &mut dyn Read) -> Result<ControlFlow<()>>,
) -> Result<Next> {
    // In raw mode the entries of long names are visible, so their size can be limited here.
    let entries = archive.entries().map_err(damaged)?.raw(true);
    let mut extended = Extended::default();
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        *members += 1;
        ensure!(*members <= MAX_MEMBERS, "it has more than {MAX_MEMBERS} members");
        match entry.header().entry_type() {
            EntryType::GNULongName => extended.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => extended.link = Some(long_name(&mut entry)?),
            EntryType::XHeader => extended.read_pax(&mut entry)?,
            EntryType::XGlobalHeader => {}
            _ => {
                let member = member(&entry, std::mem::take(&mut extended))?;
                if entry.header().as_gnu().is_some_and(GnuHeader::is_extended) && member.kind == Kind::Sparse {
                    return Ok(Next::Content(member, Layout::AfterMap));
                }
                // In raw mode an extended header does not change the size.
                if member.size != entry.size() {
                    return Ok(Next::Content(member, Layout::Plain));
                }
                let mut content = Content { remaining: entry.size(), source: &mut entry };
                if visit(&member, &mut content)?.is_break() {
                    return Ok(Next::Break);
                }
            }
        }
    }
    Ok(Next::End)
}

/// Visits a member whose content comes next, and leaves the reader at the next member.
fn visit_content(
    source: &mut impl Read,
    member: &Member,
    layout: Layout,
    visit: &mut impl FnMut(&Member, &mut dyn Read) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let mut more_map = layout == Layout::AfterMap;
    while more_map {
        let mut map = GnuExtSparseHeader::new();
        source.read_exact(map.as_mut_bytes()).map_err(damaged)?;
        more_map = map.is_extended();
    }
    let mut content = source.by_ref().take(member.size);
    if visit(member, &mut Content { remaining: member.size, source: &mut content })?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    // Members are padded to whole blocks.
    let left = u128::from(content.limit()) + u128::from(member.size.wrapping_neg() % HEADER_LEN as u64);
    let left = u64::try_from(left).unwrap_or(u64::MAX);
    let skipped = io::copy(&mut source.take(left), &mut io::sink()).map_err(damaged)?;
    ensure!(skipped == left, damaged(io::ErrorKind::UnexpectedEof.into()));
    Ok(ControlFlow::Continue(()))
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

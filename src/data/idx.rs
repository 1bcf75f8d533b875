//! Reads IDX files, the format of MNIST, plain or gzipped: big-endian sizes followed by the values.
//!
//! The format is described at <http://yann.lecun.com/exdb/mnist/>: two zero bytes, the type of the values, the number
//! of dimensions, the size of each dimension as a u32, and the values in row-major order.

use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use byteorder::{BigEndian, ByteOrder};
use flate2::read::MultiGzDecoder;

/// The largest array that is accepted, in bytes: a data set must fit in memory and leave room for the rest.
const MAX_BYTES: u64 = 4 << 30;
/// A gzipped file may promise this many bytes, and `MAX_RATIO` more for each of its own: images compress less.
const MAX_UNPACKED: u64 = 1 << 30;
const MAX_RATIO: u64 = 64;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const TYPE_U8: u8 = 0x08;

/// A non-empty array of u8 values. The number of bytes is the product of the sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The size of each dimension, outermost first.
    pub sizes: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Reads the IDX file at `path`, which must hold u8 values in `dimensions` dimensions.
///
/// # Errors
/// The errors of [`parse`] and of the file system, with the path.
pub fn read(path: &Path, dimensions: u8) -> Result<Array> {
    read_checked(path, dimensions, |_| Ok(()))
}

/// Like [`read`], but passes the sizes in the header to `check` before any value is read. A few bytes of gzip can expand
/// to gigabytes, so an unexpected size must be rejected before the values are decompressed.
///
/// # Errors
/// The errors of [`read`] and of `check`, with the path.
pub fn read_checked(path: &Path, dimensions: u8, check: impl FnOnce(&[u32]) -> Result<()>) -> Result<Array> {
    read_file(path, dimensions, check).with_context(|| format!("cannot read {}", path.display()))
}

fn read_file(path: &Path, dimensions: u8, check: impl FnOnce(&[u32]) -> Result<()>) -> Result<Array> {
    // Checked before opening, because opening a named pipe would block forever.
    let metadata = path.metadata()?;
    ensure!(!metadata.is_dir(), "it is a folder, but an IDX file was expected");
    ensure!(metadata.is_file(), "it is not a regular file");
    parse_checked(File::open(path)?, Some(metadata.len()), dimensions, check)
}

/// Reads an IDX file from `source`; its first bytes decide whether it is plain or gzipped. `length` is the size of the
/// source in bytes, if known. The header of a plain file is checked against it before memory is allocated.
///
/// # Errors
/// If the source is not IDX, has another type or number of dimensions, is empty, promises more than 4 GiB, has fewer or
/// more bytes than its header promises, or is damaged gzip.
pub fn parse(source: impl Read, length: Option<u64>, dimensions: u8) -> Result<Array> {
    parse_checked(source, length, dimensions, |_| Ok(()))
}

fn parse_checked(
    source: impl Read,
    length: Option<u64>,
    dimensions: u8,
    check: impl FnOnce(&[u32]) -> Result<()>,
) -> Result<Array> {
    match decode(BufReader::new(source))? {
        Decoded::Plain(plain) => parse_decoded(plain, length, dimensions, check),
        // The length is that of the compressed data, so the header cannot be checked against it exactly.
        Decoded::Gzip(unzipped) => parse_decoded(unzipped, None, dimensions, |sizes| {
            check(sizes)?;
            let (promised, most) = (promised_bytes(sizes)?, MAX_UNPACKED + MAX_RATIO * length.unwrap_or(0));
            ensure!(
                promised <= most,
                "it is truncated or damaged: its header promises {promised} bytes, too many for a gzip file of its size"
            );
            Ok(())
        }),
    }
}

/// A source with the bytes that were peeked at put back in front.
type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// A plain source, or the decoder of a gzipped one.
pub(super) enum Decoded<R: Read> {
    Plain(Peeked<R>),
    Gzip(MultiGzDecoder<Peeked<R>>),
}

/// Detects gzip by its magic bytes, not by a file name.
pub(super) fn decode<R: Read>(mut source: R) -> io::Result<Decoded<R>> {
    let mut start = Vec::with_capacity(GZIP_MAGIC.len());
    source.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut start)?;
    let is_gzip = start == GZIP_MAGIC;
    let full = Cursor::new(start).chain(source);
    Ok(if is_gzip { Decoded::Gzip(MultiGzDecoder::new(full)) } else { Decoded::Plain(full) })
}

fn parse_decoded(
    mut source: impl Read,
    length: Option<u64>,
    dimensions: u8,
    check: impl FnOnce(&[u32]) -> Result<()>,
) -> Result<Array> {
    let header_length = 4 + 4 * u64::from(dimensions);
    let mut header = Vec::new();
    source.by_ref().take(header_length).read_to_end(&mut header).map_err(explain_gzip_error)?;
    let sizes = parse_header(&header, dimensions)?;
    let promised = promised_bytes(&sizes)?;
    check(&sizes)?;

    let mut bytes = Vec::new();
    if let Some(length) = length {
        check_length(promised, length.saturating_sub(header_length))?;
        bytes.try_reserve_exact(usize::try_from(promised)?).context("there is not enough memory for its values")?;
    }
    // Reading one extra byte detects trailing data and makes the gzip decoder verify its checksum.
    source.take(promised + 1).read_to_end(&mut bytes).map_err(explain_gzip_error)?;
    check_length(promised, bytes.len() as u64)?;
    Ok(Array { sizes: sizes.iter().map(|&size| size as usize).collect(), bytes })
}

/// Checks the fixed part of the header and returns the sizes.
fn parse_header(header: &[u8], dimensions: u8) -> Result<Vec<u32>> {
    // Wrong bytes at the start are reported in preference to a truncated header.
    if let &[first, second, kind, found, ..] = header {
        ensure!(first == 0 && second == 0, "it is not an IDX file: it starts with {:02x?}", &header[..4]);
        ensure!(kind == TYPE_U8, "its values are {}; only u8 (type 0x08) is supported", type_name(kind));
        ensure!(
            found == dimensions,
            "it has {found} dimensions where {dimensions} are expected; is it the right file?"
        );
    }
    let expected = 4 + 4 * usize::from(dimensions);
    ensure!(
        header.len() == expected,
        "it ends within its header, after {} of {expected} bytes; copy or download it again",
        header.len()
    );
    Ok(header[4..].chunks_exact(4).map(BigEndian::read_u32).collect())
}

fn type_name(kind: u8) -> String {
    let name = match kind {
        0x09 => "i8",
        0x0b => "i16",
        0x0c => "i32",
        0x0d => "f32",
        0x0e => "f64",
        _ => "of an unknown type",
    };
    format!("{name} (type {kind:#04x})")
}

/// The number of bytes that follow a header with these sizes.
fn promised_bytes(sizes: &[u32]) -> Result<u64> {
    ensure!(!sizes.contains(&0), "it is empty: its sizes are {sizes:?}");
    let product = sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(u64::from(size)));
    match product {
        Some(product) if product <= MAX_BYTES => Ok(product),
        _ => bail!("its header promises {sizes:?} bytes, more than 4 GiB; the header is damaged"),
    }
}

fn check_length(promised: u64, found: u64) -> Result<()> {
    ensure!(
        found >= promised,
        "it is truncated: {found} bytes follow its header, which promises {promised}; copy or download it again"
    );
    ensure!(found == promised, "it has more than the {promised} bytes of data that its header promises; it is damaged");
    Ok(())
}

/// Explains a failed read. Since sources are read to their end, these kinds of error only occur if gzip data is damaged.
pub(super) fn explain_gzip_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => anyhow!("its gzip data is truncated; copy or download it again"),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            anyhow!("its gzip data is corrupt ({error}); copy or download it again")
        }
        _ => error.into(),
    }
}

//! Reading IDX files, the format of MNIST: big-endian sizes, then the bytes, gzipped or not.
//!
//! The format is described at <http://yann.lecun.com/exdb/mnist/>: two zero bytes, the type of the values, the number
//! of dimensions, each dimension's size as a u32, and the values with the last dimension running fastest.

use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use byteorder::{BigEndian, ByteOrder};
use flate2::read::MultiGzDecoder;

/// The most bytes a header may promise: the set has to fit into memory, beside much else.
const MAX_BYTES: u64 = 4 << 30;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const TYPE_U8: u8 = 0x08;

/// An array of u8 values, never empty; there are as many bytes as the product of the sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The size of each dimension, the slowest first.
    pub sizes: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Reads the IDX file at `path`, which must hold u8 values in `dimensions` dimensions.
///
/// # Errors
/// Those of [`parse`] and of the file system, with the path.
pub fn read(path: &Path, dimensions: u8) -> Result<Array> {
    read_checked(path, dimensions, |_| Ok(()))
}

/// [`read`], with the header's sizes shown to `check` before any value is read: a few bytes of gzip can promise
/// gigabytes, and what is not wanted must not be inflated.
///
/// # Errors
/// Those of [`read`] and of `check`, with the path.
pub fn read_checked(path: &Path, dimensions: u8, check: impl FnOnce(&[u32]) -> Result<()>) -> Result<Array> {
    read_file(path, dimensions, check).with_context(|| format!("cannot read {}", path.display()))
}

fn read_file(path: &Path, dimensions: u8, check: impl FnOnce(&[u32]) -> Result<()>) -> Result<Array> {
    // Before opening: that alone would wait forever on a named pipe.
    let metadata = path.metadata()?;
    ensure!(!metadata.is_dir(), "it is a folder; an IDX file was expected there");
    ensure!(metadata.is_file(), "it is not a regular file");
    parse_checked(File::open(path)?, Some(metadata.len()), dimensions, check)
}

/// Reads an IDX file from `source`, plain or gzipped, whichever its first bytes say. Where the `length` of the source
/// in bytes is known, a plain file's header is held to it before memory is allocated.
///
/// # Errors
/// Where the source is not IDX, holds another type or number of dimensions, is empty, promises more than 4 GiB, has
/// fewer or more bytes than its header promises, or is damaged gzip.
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
        // The header is read through gzip, so the source's length says nothing about it.
        Decoded::Gzip(unzipped) => parse_decoded(unzipped, None, dimensions, check),
    }
}

/// A source put back together after a look at its first bytes.
type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// A source that is gzip, now read through a decoder, or is not.
pub(super) enum Decoded<R: Read> {
    Plain(Peeked<R>),
    Gzip(MultiGzDecoder<Peeked<R>>),
}

/// Tells gzip by its magic bytes, not by a name.
pub(super) fn decode<R: Read>(mut source: R) -> io::Result<Decoded<R>> {
    let mut start = Vec::with_capacity(GZIP_MAGIC.len());
    source.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut start)?;
    let is_gzip = start == GZIP_MAGIC;
    let whole = Cursor::new(start).chain(source);
    Ok(if is_gzip { Decoded::Gzip(MultiGzDecoder::new(whole)) } else { Decoded::Plain(whole) })
}

fn parse_decoded(
    mut source: impl Read,
    length: Option<u64>,
    dimensions: u8,
    check: impl FnOnce(&[u32]) -> Result<()>,
) -> Result<Array> {
    let header_length = 4 + 4 * u64::from(dimensions);
    let mut header = Vec::new();
    source.by_ref().take(header_length).read_to_end(&mut header).map_err(explain)?;
    let sizes = parse_header(&header, dimensions)?;
    let promised = byte_count(&sizes)?;
    check(&sizes)?;

    let mut bytes = Vec::new();
    if let Some(length) = length {
        check_length(promised, length.saturating_sub(header_length))?;
        bytes.try_reserve_exact(usize::try_from(promised)?).context("there is not enough memory for it")?;
    }
    // One byte more than promised tells of trailing bytes, and makes the gzip decoder verify its checksum.
    source.take(promised + 1).read_to_end(&mut bytes).map_err(explain)?;
    check_length(promised, bytes.len() as u64)?;
    Ok(Array { sizes: sizes.iter().map(|&size| size as usize).collect(), bytes })
}

/// Checks the header's fixed part and returns the sizes.
fn parse_header(header: &[u8], dimensions: u8) -> Result<Vec<u32>> {
    // What is wrong at the start is reported before what is missing at the end.
    if let &[first, second, kind, found, ..] = header {
        ensure!(first == 0 && second == 0, "it is not an IDX file: it starts with {:02x?}", &header[..4]);
        ensure!(kind == TYPE_U8, "its values are {}; only u8 (type 0x08) is supported", type_name(kind));
        ensure!(found == dimensions, "it has {found} dimensions where {dimensions} are expected; is it another file?");
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
        _ => "of no known type",
    };
    format!("{name} (type {kind:#04x})")
}

/// The bytes that a header of these sizes promises.
fn byte_count(sizes: &[u32]) -> Result<u64> {
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
    ensure!(found == promised, "bytes are left over after the {promised} that its header promises; it is damaged");
    Ok(())
}

/// Says what a failed read means. Sources read to their end do not fail with these kinds unless gzip is damaged.
pub(super) fn explain(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => anyhow!("its gzip data are truncated; copy or download it again"),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            anyhow!("its gzip data are corrupt ({error}); copy or download it again")
        }
        _ => error.into(),
    }
}

//! The bytes of a safetensors file: tensors, metadata in a fixed order, and a SHA-256 of everything.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::tensor::{SafeTensors, TensorView};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The metadata entry with the SHA-256 of the whole file, in which the digits of this entry count as zeros.
pub(super) const DIGEST: &str = "sha256";
const DIGITS: usize = 64;
/// The length of the header, as the first bytes of a file.
const LENGTH: usize = 8;
/// Longer headers are not read. Safetensors allows no more.
pub(super) const MAX_HEADER: u64 = 100_000_000;

/// The bytes of a file with these tensors and metadata entries, and with a digest.
pub(super) fn encode(tensors: Vec<(&str, TensorView)>, entries: &[(&str, &str)]) -> Result<Vec<u8>> {
    let zeros = "0".repeat(DIGITS);
    let plain = safetensors::serialize(tensors, None).map_err(|error| anyhow!("{error}"))?;
    let (header, data) = split(&plain).context("the tensors have no header")?;
    // `serialize` writes several entries in random order, so the same weights would not give the same file.
    let mut header: BTreeMap<String, Value> = serde_json::from_slice(header)?;
    let metadata: BTreeMap<&str, &str> = entries.iter().copied().chain([(DIGEST, zeros.as_str())]).collect();
    header.insert("__metadata__".into(), serde_json::to_value(metadata)?);
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(LENGTH), b' '); // so that the tensors are aligned
    let mut bytes = [&(header.len() as u64).to_le_bytes()[..], &header, data].concat();
    let digits = digits_of(&bytes).context("the header has no place for the digest")?;
    let digest = digest_without(&bytes, &digits);
    bytes[digits].copy_from_slice(digest.as_bytes());
    Ok(bytes)
}

/// The tensors of a file's bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| anyhow!("not a complete safetensors file ({error}); it may be truncated or damaged"))
}

/// The metadata of a file's bytes, of which only the header is needed.
pub(super) fn parse_metadata(bytes: &[u8]) -> Result<HashMap<String, String>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default, rename = "__metadata__")]
        metadata: HashMap<String, String>,
    }
    let (header, _) = split(bytes).context("the file ends in its header")?;
    Ok(serde_json::from_slice::<Header>(header).context("the header is not JSON")?.metadata)
}

/// The beginning of a file up to the end of its header, or all of it if it is shorter.
pub(super) fn read_beginning(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, mut bytes) = (File::open(path)?, Vec::new());
    (&mut file).take(LENGTH as u64).read_to_end(&mut bytes)?;
    let length = bytes.first_chunk().map_or(0, |&length| u64::from_le_bytes(length));
    file.take(length.min(MAX_HEADER)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Compares a file with its digest. Returns whether it has one; those of other programs do not.
///
/// # Errors
/// The content is not that of the digest.
pub(super) fn check_digest(bytes: &[u8], metadata: &HashMap<String, String>) -> Result<bool> {
    let Some(expected) = metadata.get(DIGEST) else {
        // Another program that removes the entry removes its digits too.
        let is_digits = |text: &str| text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_renamed = metadata.iter().any(|(name, value)| name.len() == DIGEST.len() && is_digits(value));
        ensure!(!is_renamed, "it is damaged: its entry {DIGEST} has another name");
        return Ok(false);
    };
    let found = digits_of(bytes).map(|digits| digest_without(bytes, &digits));
    ensure!(
        found.as_ref() == Some(expected),
        "it is damaged: its content does not match its SHA-256; use a copy of the file, or if another program changed \
         it on purpose, save it there without the metadata entry {DIGEST}"
    );
    Ok(true)
}

/// The header, in JSON, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// Where the digits of the digest are. A quote in a string is escaped, so only the entry itself has this form.
fn digits_of(bytes: &[u8]) -> Option<Range<usize>> {
    let (header, _) = split(bytes)?;
    let key = format!("\"{DIGEST}\":\"");
    let begin = LENGTH + key.len() + header.windows(key.len()).position(|window| window == key.as_bytes())?;
    let digits = begin..begin + DIGITS;
    (digits.end < LENGTH + header.len()).then_some(digits)
}

/// The SHA-256 of a file in which `digits` are zeros, in lower-case hexadecimal.
fn digest_without(bytes: &[u8], digits: &Range<usize>) -> String {
    let mut hash = Sha256::new();
    hash.update(&bytes[..digits.start]);
    hash.update([b'0'; DIGITS]);
    hash.update(&bytes[digits.end..]);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

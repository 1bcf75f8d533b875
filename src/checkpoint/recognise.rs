//! Recognises files that are not safetensors by their first bytes, to name them in errors.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::container::MAX_HEADER;

/// How much of a file is looked at.
const BEGINNING: u64 = 512;

pub(super) const CONVERT: &str =
    "a safetensors file is expected, as written by safetensors.torch.save_file(state_dict, FILE)";

/// What to do about a file of torch.save in its old format.
const CONVERT_OLD: &str = "convert it to the format since then: python -c \"import sys, torch; \
                           torch.save(torch.load(sys.argv[1], map_location='cpu'), sys.argv[2])\" OLD.pth NEW.pth";

const ANSWER: &str = "if it was downloaded, it is a server's answer instead of the file, and shows what was wrong";

/// How pickles of protocol 0 begin, which are text: torch.save's magic number, a dictionary, an `OrderedDict`.
const PICKLE_0: [&[u8]; 4] = [b"L119547037146038801333356L", b"(dp", b"ccollections\n", b"ccopy_reg\n"];

/// The formats of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Safetensors,
    /// A ZIP archive, as torch.save writes.
    Torch,
}

/// Fails with what the file is, if its beginning shows that it is not a safetensors file.
pub(super) fn refuse_other_formats(path: &Path) -> Result<()> {
    match recognise(path)? {
        Format::Safetensors => Ok(()),
        Format::Torch => {
            bail!("{} is a ZIP archive, as torch.save writes, not weights in safetensors: {CONVERT}", path.display())
        }
    }
}

/// The format of a file of weights.
///
/// # Errors
/// The beginning of the file shows that it is neither; the message has what it is.
pub(super) fn recognise(path: &Path) -> Result<Format> {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut begin));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    match format_of(&begin) {
        Some((what, remedy)) => bail!("{} is {what}, not weights in safetensors: {remedy}", path.display()),
        None if begin.starts_with(b"PK\x03\x04") => Ok(Format::Torch),
        None => Ok(Format::Safetensors),
    }
}

/// What a file that begins with these bytes is, and what to do about it.
fn format_of(begin: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = String::from_utf8_lossy(begin).trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).to_lowercase();
    let is_html = ["<!doctype html", "<html", "<head"].iter().any(|tag| text.starts_with(tag));
    let is_xml = text.strip_prefix('<').is_some_and(|rest| rest.starts_with(|c: char| c.is_alphabetic() || c == '?'));
    let is_pickle_0 = PICKLE_0.iter().any(|start| begin.starts_with(start));
    // Any possible length of a header may precede it, also one that looks like another format.
    let length = begin.first_chunk().map(|&length| u64::from_le_bytes(length));
    if begin.get(8) == Some(&b'{') && length.is_some_and(|length| length <= MAX_HEADER) {
        return None;
    }
    Some(match begin {
        [] => ("an empty file", "copy or download it again"),
        _ if begin.starts_with(b"version https://git-lfs.github.com/spec/") => {
            ("a Git LFS pointer", "run `git lfs pull` in its repository to fetch the file itself")
        }
        _ if is_html => ("a web page", "its download failed, or its address is that of a page about the file"),
        _ if is_text(begin) && is_xml => ("XML", ANSWER),
        _ if is_text(begin) && text.starts_with(['{', '[']) => ("JSON", ANSWER),
        _ if is_pickle_0 => ("a pickle, as torch.save wrote before PyTorch 1.6", CONVERT_OLD),
        _ if begin.get(257..262) == Some(b"ustar") => {
            ("a tar archive, as the first versions of torch.save wrote", CONVERT_OLD)
        }
        _ if begin.starts_with(&[0x1f, 0x8b]) => ("compressed with gzip", "decompress it first, with `gzip -d`"),
        // The version, then the name of the program that wrote it.
        [8, 1..=32, 0x12, ..] => ("an ONNX model, as torch.onnx.export writes", CONVERT),
        _ if begin.iter().all(|&byte| byte == 0) => ("a file of zeros", "copy or download it again"),
        _ if is_text(begin) => ("plain text", ANSWER),
        // Pickles of protocol 2 and later.
        [0x80, 2..=5, ..] => ("a pickle, as torch.save wrote before PyTorch 1.6", CONVERT_OLD),
        _ if begin.starts_with(b"\x93NUMPY") => ("a NumPy array (.npy)", CONVERT),
        _ if begin.starts_with(b"\x89HDF\r\n\x1a\n") => ("an HDF5 file, as Keras writes", CONVERT),
        _ if begin.starts_with(b"GGUF") => ("a GGUF file", CONVERT),
        _ => return None,
    })
}

/// Whether the beginning of a file is text in UTF-8. Its last character may be cut.
fn is_text(begin: &[u8]) -> bool {
    let text = match std::str::from_utf8(begin) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&begin[..error.valid_up_to()]).unwrap_or(""),
        Err(_) => "",
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || ['\t', '\r', '\n', '\u{c}'].contains(&c))
}

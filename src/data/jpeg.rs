//! Checks that a JPEG is complete and of a supported kind. The decoder fills in the missing part of one that is cut off.
//!
//! The format is described in ITU-T T.81. The check decodes the Huffman codes of all scans, but computes no pixels.

use std::fmt;

use super::jpeg_scan::{Component, Frame, Huffman, Scan, Tables};

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: u8 = 0xD9;
const HUFFMAN_TABLES: u8 = 0xC4;
const RESTART_INTERVAL: u8 = 0xDD;

/// The most scans, as in the decoder. A scan of a few bytes can take as long as the whole picture.
const MAX_SCANS: usize = 100;

/// Why a JPEG cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is damaged or ends too early.
    Damaged,
    /// It is of a kind that cannot be decoded.
    Unsupported(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => write!(f, "it is damaged or cut off"),
            Self::Unsupported(kind) => write!(f, "{kind} is not supported"),
        }
    }
}

/// What memory a JPEG takes to decode depends on this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// Whether the decoder keeps the coefficients of all blocks until the last scan.
    pub keeps_coefficients: bool,
}

/// Finds the kind of a JPEG in its headers.
///
/// # Errors
/// If its coding is not supported. Damage is left to [`check`].
pub fn kind(bytes: &[u8]) -> Result<Kind, Fault> {
    for (marker, segment) in Segments(bytes) {
        if is_frame(marker) {
            let unsupported = match (marker, segment.first()) {
                (0xC9..=0xCB | 0xCD..=0xCF, _) => "arithmetic-coded JPEG",
                (0xC3, _) => "lossless JPEG",
                (0xC5..=0xC7, _) => "hierarchical JPEG",
                (_, Some(12)) => "12-bit JPEG",
                (_, Some(8) | None) => return Ok(Kind { keeps_coefficients: marker == 0xC2 }),
                _ => "JPEG of other than 8 bits",
            };
            return Err(Fault::Unsupported(unsupported));
        }
    }
    Ok(Kind::default())
}

/// Checks that all scans are complete and followed by the end-of-image marker. Data after the end is ignored.
///
/// # Errors
/// If the picture is damaged.
pub fn check(bytes: &[u8]) -> Result<(), Fault> {
    let (mut rest, mut tables, mut frame, mut scans) = (bytes, Tables::default(), None::<Frame>, 0);
    while let Some((marker, segment, after)) = next_segment(rest) {
        rest = after;
        match marker {
            END_OF_IMAGE => {
                let complete = frame.is_some_and(|frame| frame.components.iter().all(|it| it.scanned));
                return if complete { Ok(()) } else { Err(Fault::Damaged) };
            }
            HUFFMAN_TABLES => read_tables(segment, &mut tables).ok_or(Fault::Damaged)?,
            RESTART_INTERVAL => {
                let &[high, low, ..] = segment else { return Err(Fault::Damaged) };
                tables.restart_interval = usize::from(u16::from_be_bytes([high, low]));
            }
            START_OF_SCAN => {
                scans += 1;
                if scans > MAX_SCANS {
                    return Err(Fault::Unsupported("JPEG of more than 100 scans"));
                }
                let frame = frame.as_mut().ok_or(Fault::Damaged)?;
                let scan = read_scan(segment, frame).ok_or(Fault::Damaged)?;
                rest = scan.check(frame, &tables, rest).ok_or(Fault::Damaged)?;
            }
            // A second frame would belong to another picture.
            marker if is_frame(marker) && frame.is_none() => {
                frame = Some(read_frame(marker, segment).ok_or(Fault::Damaged)?);
            }
            _ => {}
        }
    }
    Err(Fault::Damaged)
}

fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, HUFFMAN_TABLES | 0xC8 | 0xCC)
}

/// The next marker with its segment, and the bytes after it. Segments are skipped by their lengths, so the markers of a
/// thumbnail in the header do not count.
fn next_segment(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    // In the data of a scan, every 0xFF is followed by a zero. A marker may be preceded by 0xFF fill bytes.
    let at = bytes.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF))?;
    let (marker, after) = (bytes[at + 1], &bytes[at + 2..]);
    if matches!(marker, 0x01 | 0xD0..=END_OF_IMAGE) {
        return Some((marker, &[], after)); // these have no segment
    }
    let length = usize::from(u16::from_be_bytes([*after.first()?, *after.get(1)?])).max(2);
    Some((marker, after.get(2..length)?, after.get(length..)?))
}

/// The segments up to the first scan.
struct Segments<'a>(&'a [u8]);

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (marker, segment, after) = next_segment(self.0)?;
        self.0 = after;
        (marker != START_OF_SCAN).then_some((marker, segment))
    }
}

fn read_tables(mut segment: &[u8], tables: &mut Tables) -> Option<()> {
    while let [place, rest @ ..] = segment {
        let counts: &[u8; 16] = rest.get(..16)?.try_into().ok()?;
        let symbol_count = counts.iter().map(|&count| usize::from(count)).sum();
        let symbols = rest[16..].get(..symbol_count)?;
        let class = if place >> 4 == 0 { &mut tables.dc } else { &mut tables.ac };
        *class.get_mut(usize::from(place & 15))? = Some(Huffman::new(counts, symbols)?);
        segment = &rest[16 + symbol_count..];
    }
    Some(())
}

fn read_frame(marker: u8, segment: &[u8]) -> Option<Frame> {
    let &[_, height_high, height_low, width_high, width_low, count, ref components @ ..] = segment else {
        return None;
    };
    let side = |high, low| usize::from(u16::from_be_bytes([high, low]));
    let components: Vec<Component> = components
        .chunks_exact(3)
        .take(usize::from(count))
        .map(|entry| Component::new(entry[0], usize::from(entry[1] >> 4), usize::from(entry[1] & 15)))
        .collect();
    let valid = components.len() == usize::from(count)
        && (1..=4).contains(&count)
        && components.iter().all(|it| (1..=4).contains(&it.horizontal) && (1..=4).contains(&it.vertical));
    let frame = Frame::new(side(width_high, width_low), side(height_high, height_low), marker == 0xC2, components);
    (valid && frame.width > 0 && frame.height > 0).then_some(frame)
}

fn read_scan(segment: &[u8], frame: &Frame) -> Option<Scan> {
    let (&count, rest) = segment.split_first()?;
    let entries = rest.get(..2 * usize::from(count))?;
    let &[first, last, approximation, ..] = &rest[2 * usize::from(count)..] else { return None };
    let number = |id: u8| frame.components.iter().position(|it| it.id == id);
    let components = entries
        .chunks_exact(2)
        .map(|entry| Some((number(entry[0])?, usize::from(entry[1] >> 4), usize::from(entry[1] & 15))))
        .collect::<Option<Vec<_>>>()?;
    let valid = (1..=4).contains(&count) && first <= last && last < 64;
    valid.then_some(Scan { components, first, last, refines: approximation >> 4 != 0 })
}

//! The sizes of the processor's caches.

use std::fs;
use std::path::Path;

use crate::cpu::runtime::threads::processors;

/// A cache level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cache {
    pub level: usize,
    pub bytes: usize,
    /// The number of processors that share one cache.
    pub shared_by: usize,
}

impl Cache {
    /// Bytes per thread if `threads` threads run on neighbouring processors.
    pub fn share(&self, threads: usize) -> usize {
        self.bytes / self.shared_by.clamp(1, threads)
    }
}

/// The data caches of the first processor that this process may use, the nearest first; `None` if the system does not
/// report them.
pub(super) fn of_system() -> Option<Vec<Cache>> {
    let processor = processors().first().copied()?;
    let folder = format!("/sys/devices/system/cpu/cpu{processor}/cache");
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut caches: Vec<Cache> = entries.filter_map(|entry| read(&entry.path())).collect();
    caches.sort_by_key(|cache| cache.level);
    (!caches.is_empty()).then_some(caches)
}

/// Usual sizes, for systems that do not report theirs.
pub(super) fn usual() -> Vec<Cache> {
    let sizes = [(1, 32 << 10, 1), (2, 1 << 20, 1), (3, 16 << 20, usize::MAX)];
    sizes.map(|(level, bytes, shared_by)| Cache { level, bytes, shared_by }).to_vec()
}

/// The cache that a folder of the system describes; `None` for instruction caches.
fn read(folder: &Path) -> Option<Cache> {
    let value = |name: &str| Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_string());
    (value("type")? != "Instruction").then_some(())?;
    let shared_by = value("shared_cpu_list").map_or(1, |list| count(&list));
    Some(Cache { level: value("level")?.parse().ok()?, bytes: parse_size(&value("size")?)?, shared_by })
}

/// Bytes of a size such as `32K`.
fn parse_size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// The number of processors in a list such as `0-3,8`; 1 if it is not such a list.
fn count(list: &str) -> usize {
    let of_range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let [first, last] = [first, last].map(|number| number.trim().parse::<usize>().ok());
        Some(last?.checked_sub(first?)? + 1)
    };
    list.split(',').filter_map(of_range).sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptions_of_the_system_are_parsed() {
        assert_eq!(
            ["32K", "1M", "512", "0K", "K", "8X"].map(parse_size),
            [Some(32 << 10), Some(1 << 20), Some(512), None, None, None]
        );
        assert_eq!(["0", "0-3", "0-1,8-9,16", "", "3-1"].map(count), [1, 4, 5, 1, 1]);
        let shared = Cache { level: 3, bytes: 1 << 20, shared_by: 8 };
        assert_eq!([1, 2, 64].map(|threads| shared.share(threads)), [1 << 20, 1 << 19, 1 << 17]);
    }
}

//! Recognises the prefix that a wrapped module puts before the names of its tensors.

/// The prefixes that DataParallel, `torch.compile` and common training programs put before the names of a module.
const PREFIXES: [&str; 6] = ["module.", "_orig_mod.", "model.", "network.", "net.", "state_dict."];

/// The prefix of the names in a file that lacks the tensor `wanted`: what precedes that name, or the usual prefixes of
/// all names, one after the other.
pub(super) fn prefix_before<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let before = |name: &&'a str| name.strip_suffix(wanted).filter(|prefix| prefix.ends_with('.'));
    let usual = || {
        let (first, mut length) = (names.first()?, 0);
        let is_next = |length: usize, prefix: &str| names.iter().all(|name| name[length..].starts_with(prefix));
        while let Some(prefix) = PREFIXES.iter().find(|prefix| is_next(length, prefix)) {
            length += prefix.len();
        }
        first.get(..length).filter(|prefix| !prefix.is_empty())
    };
    names.iter().find_map(before).or_else(usual)
}

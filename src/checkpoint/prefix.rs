//! Recognises the prefix that a wrapped module puts before the names of its tensors.

/// The prefixes that DataParallel, `torch.compile` and common training programs put before the names of a module.
const PREFIXES: [&str; 5] = ["module.", "_orig_mod.", "model.", "network.", "net."];

/// The prefix of the names in a file that lacks the tensor `wanted`: what precedes that name, or a usual prefix of all
/// names.
pub(super) fn prefix_before<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let before = |name: &&'a str| name.strip_suffix(wanted).filter(|prefix| prefix.ends_with('.'));
    let usual = || {
        let first = names.first()?;
        let prefix = PREFIXES.iter().find(|prefix| names.iter().all(|name| name.starts_with(**prefix)))?;
        first.get(..prefix.len())
    };
    names.iter().find_map(before).or_else(usual)
}

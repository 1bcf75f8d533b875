//! Recognises the prefix that a wrapped module puts before the names of its tensors.

use crate::network::Network;

/// The prefixes that `DataParallel`, `torch.compile` and common training programs put before the names of a module. They
/// are removed.
const REMOVED: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// Others, which may just as well belong to another network. They are named in errors.
const NAMED: [&str; 3] = ["network.", "net.", "state_dict."];

/// What to remove from all names of a file: prefixes that they all have, one after the other, and that no name of
/// `network` has.
pub(super) fn usual_prefix(network: &Network, names: &[&str]) -> String {
    let is_own = |prefix: &str| network.parameters.iter().any(|parameter| parameter.name.starts_with(prefix));
    let removed: Vec<&str> = REMOVED.into_iter().filter(|prefix| !is_own(prefix)).collect();
    common_prefix(&removed, names).to_string()
}

/// The prefix of the names in a file that lacks the tensor `wanted`: what precedes that name, or the usual prefixes of
/// all names, one after the other.
pub(super) fn prefix_before<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let before = |name: &&'a str| name.strip_suffix(wanted).filter(|prefix| prefix.ends_with('.'));
    let usual = || Some(common_prefix(&[&REMOVED[..], &NAMED].concat(), names)).filter(|prefix| !prefix.is_empty());
    names.iter().find_map(before).or_else(usual)
}

/// The longest beginning of all names that consists of `prefixes`.
fn common_prefix<'a>(prefixes: &[&str], names: &[&'a str]) -> &'a str {
    let Some(first) = names.first() else { return "" };
    let mut length = 0;
    let is_next = |length: usize, prefix: &str| names.iter().all(|name| name[length..].starts_with(prefix));
    while let Some(prefix) = prefixes.iter().find(|prefix| is_next(length, prefix)) {
        length += prefix.len();
    }
    &first[..length]
}
